import functools
import math

import numpy as np
import pytest

from tests.raises import user_error
from tramp_jax import baselines
from tramp_jax.baselines import FEATURE_NAMES
from tramp_jax.data.landmarks import GROUP_SIZE, GROUPS, MIRROR, SLOT_NAMES

FPS = 20.0
_PLACE = {  # of a left half face, in units of the distance of the pupils; the rest is random, the right half mirrored
    "left_eyebrow_lower_middle": (-0.5, -0.9),
    "left_eye_left_corner": (-0.7, -0.6),
    "left_eye_right_corner": (-0.3, -0.6),
    "left_eye_pupil": (-0.5, -0.6),
    "left_eye_top": (-0.5, -0.67),
    "left_eye_bottom": (-0.5, -0.53),
    "mouth_left_corner": (-0.35, 0.55),
    "mouth_upper_lip_bottom": (0.0, 0.55),
    "mouth_lower_lip_top": (0.0, 0.58),
}


def still_face(num_frames: int = 80) -> np.ndarray:
    """(n, 63, 2) of a symmetric face that does not move."""
    face = np.random.default_rng(0).normal((-0.3, 0), 0.1, (63, 2))
    for i, name in enumerate(SLOT_NAMES):
        if name in _PLACE:
            face[i] = _PLACE[name]
    for i, other in enumerate(MIRROR):
        if i == other:
            face[i, 0] = 0
        elif i < other:  # the left one of a pair
            face[other] = face[i] * (-1, 1)
    return np.repeat(face[None], num_frames, axis=0)


def moving_face(num_frames: int = 80, seed: int = 0) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(0, 0.01, (num_frames, 63, 2))
    return still_face(num_frames) + np.cumsum(steps, axis=0) * 0.3


def features(points: np.ndarray, fps: float = FPS) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, baselines.motion_features(points, fps), strict=True))


def slots(*words: str) -> list[int]:
    return [i for i, name in enumerate(SLOT_NAMES) if all(word in name for word in words)]


def wave(hertz: float, num_frames: int = 80, fps: float = FPS) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(num_frames) / fps)[:, None]


def test_names_are_unique_and_fit_the_features():
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    assert baselines.motion_features(moving_face(), FPS).shape == (len(FEATURE_NAMES),)


@pytest.mark.parametrize("num_frames", [2, 3, 4, 7, 200])
def test_features_are_finite_for_every_length(num_frames):
    for points in (still_face(num_frames), moving_face(num_frames)):
        assert np.isfinite(baselines.motion_features(points, FPS)).all()


def test_face_that_does_not_move_has_no_motion():
    result = features(still_face())
    still = ("range", "spread", "speed_mean", "speed_peak", "jerkiness", "tremor", "asymmetry", "closed", "blinks")
    for name, value in result.items():
        if any(word in name for word in still):
            assert abs(value) < 1e-9, name
    assert math.isclose(result["eye_opening_mean"], 0.14 / 0.4)
    assert math.isclose(result["mouth_opening_mean"], 0.03)
    assert math.isclose(result["mouth_width_mean"], 0.7)


def test_features_do_not_depend_on_place_or_size():
    points = moving_face()
    expected = baselines.motion_features(points, FPS)
    np.testing.assert_allclose(baselines.motion_features(points * 70, FPS), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        baselines.motion_features(points + np.array([30, -4]), FPS), expected, rtol=1e-9, atol=1e-11
    )


def test_features_do_not_depend_on_the_side():
    points = moving_face()
    points[:, 18:27] *= 1.01
    expected, result = features(points), features(points[:, MIRROR] * (-1, 1))
    swap = {"left": "right", "right": "left"}
    for name, value in result.items():
        side, _, rest = name.partition("_")
        assert math.isclose(value, expected[f"{swap.get(side, side)}_{rest}"]), name
    assert result["left_eye_range"] != result["right_eye_range"]


@pytest.mark.parametrize("index", range(7))
def test_region_that_moves_more_has_larger_features(index):
    # The whole region swings as one, so distances inside it and thus the unit of length stay.
    points, more = moving_face(), moving_face()
    region = slice(index * GROUP_SIZE, (index + 1) * GROUP_SIZE)
    more[:, region] += 0.1 * np.stack([0 * wave(4.5), wave(4.5)], axis=-1)
    base, result = features(points), features(more)
    for kind in ("range", "spread", "speed_mean", "speed_peak", "jerkiness", "tremor"):
        assert result[f"{GROUPS[index]}_{kind}"] > 1.5 * base[f"{GROUPS[index]}_{kind}"]
        other = GROUPS[(index + 1) % 7]
        assert math.isclose(result[f"{other}_{kind}"], base[f"{other}_{kind}"], rel_tol=0.05)


def test_speed_is_per_second():
    slow, fast = features(moving_face(), FPS), features(moving_face(), 2 * FPS)
    assert math.isclose(fast["nose_speed_mean"], 2 * slow["nose_speed_mean"])
    assert math.isclose(fast["nose_jerkiness"], 4 * slow["nose_jerkiness"])
    assert math.isclose(fast["nose_range"], slow["nose_range"])


@pytest.mark.parametrize("fps", [20.0, 50.0])
def test_tremor_is_the_amplitude_between_4_and_6_hertz(fps):
    def tremor(hertz: float) -> float:
        points = still_face(200)
        points[:, 36:45, 1] += 0.02 * wave(hertz, 200, fps)
        return features(points, fps)["nose_tremor"]

    assert math.isclose(tremor(5), 0.02 / math.sqrt(2), rel_tol=0.02)
    assert tremor(1) < 1e-3
    assert tremor(0.65) < 1e-4  # no whole number of periods: nothing may leak
    assert tremor(8.5) < 1e-3


def test_blinks_are_counted():
    points = still_face()
    for start in (10, 30, 60):
        points[start : start + 3, slots("eye_top")] = points[start : start + 3, slots("eye_bottom")]
    result = features(points)
    assert math.isclose(result["eye_closed_share"], 9 / 80)
    assert math.isclose(result["blinks_per_second"], 3 * FPS / 80)


def test_mouth_and_brows_are_measured():
    points = still_face()
    points[:, slots("lower_lip_top"), 1] += np.linspace(0, 0.4, 80)[:, None]
    points[:, slots("mouth", "left_corner"), 0] -= np.linspace(0, 0.2, 80)[:, None]
    points[:, slots("eyebrow_lower_middle"), 1] -= np.linspace(0, 0.3, 80)[:, None]
    base, result = features(still_face()), features(points)
    assert math.isclose(result["mouth_opening_range"], 0.9 * 0.4, rel_tol=1e-6)
    assert math.isclose(result["mouth_width_range"], 0.9 * 0.2, rel_tol=1e-6)
    assert math.isclose(result["brow_height_range"], 0.9 * 0.3, rel_tol=1e-6)
    assert math.isclose(result["brow_height_mean"], base["brow_height_mean"] + 0.15)


@pytest.mark.parametrize(("part", "words"), [("eye", ("left_eye_",)), ("brow", ("left_eyebrow",)), ("mouth", ())])
def test_one_sided_motion_is_asymmetric(part, words):
    points = still_face()
    points[:, slots(*words) if words else slots("mouth", "left"), 1] += 0.05 * wave(1)
    result = features(points)
    for name in ("eye", "brow", "mouth"):
        assert math.isclose(result[f"asymmetry_{name}_speed"], name == part, abs_tol=1e-9)
    assert result["asymmetry_shape"] > 1e-3


def test_points_that_are_not_a_clip_are_refused():
    for points, fps in (
        (np.zeros((1, 63, 2)), FPS),
        (np.zeros((5, 106, 2)), FPS),
        (np.full((5, 63, 2), np.nan), FPS),
        (still_face(5), 0.0),
        (still_face(5), math.inf),
        (np.zeros((5, 63, 2)), FPS),  # both pupils in the same place
    ):
        with user_error("bad_landmarks"):
            baselines.motion_features(points, fps)


def test_forest_learns_and_depends_only_on_its_seed():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(60, 5)), rng.normal(size=(40, 5))
    predicted = baselines.random_forest(train, train[:, 2], test, seed=1)
    assert predicted.shape == (40,)
    assert np.corrcoef(predicted, test[:, 2])[0, 1] > 0.8
    np.testing.assert_array_equal(predicted, baselines.random_forest(train, train[:, 2], test, seed=1))
    assert (predicted != baselines.random_forest(train, train[:, 2], test, seed=2)).any()


def test_motion_energies_depend_neither_on_size_nor_on_rate():
    face = moving_face()
    one = baselines.motion_energies(face, FPS)
    assert one.shape == (504,)
    np.testing.assert_allclose(baselines.motion_energies(7 * face, FPS), one, atol=5e-3)
    still = baselines.motion_energies(still_face(), FPS)
    assert np.all(still <= one + 1e-6)
    assert np.mean(one - still) > 0.2
    np.testing.assert_allclose(baselines.motion_energies(still_face(1), FPS), still, atol=1e-5)


@pytest.mark.parametrize("method", [baselines.support_vectors, functools.partial(baselines.ridge, subjects=range(30))])
def test_simple_methods_learn_from_motion_energies(method):
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0.2, 3, 40)
    features = np.stack(
        [
            baselines.motion_energies(still_face() + (moving_face(80, i) - still_face()) * a, FPS)
            for i, a in enumerate(amounts)
        ]
    )
    found = method(features[:30], amounts[:30], features[30:])
    assert np.corrcoef(found, amounts[30:])[0, 1] > 0.8
