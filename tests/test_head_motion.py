"""Head motion leaves the trajectories, and nothing else does."""

import dataclasses

import numpy as np
import pytest

from benchmarks import head_motion as benchmark
from tests.raises import user_error
from tramp_jax.batches import trajectories
from tramp_jax.data import clips, head_motion, landmarks
from tramp_jax.data.head_motion import positions
from tramp_jax.synthetic import face
from tramp_jax.synthetic.faces import DEPTH_NOISE, SyntheticFaces

N = 25
NEUTRAL = face.draw_neutral(np.random.default_rng(3))
NOSE = landmarks.LAYOUTS["insightface106"].nose_tip
STILL = np.zeros((N, 6))
SIDES = ("left", "right")


def turning(seed: int, *, in_plane: bool, scale: float = 0.1) -> np.ndarray:
    """Head motion (N, 6), see ``face.Motion.pose``: up to about 40 degrees about every axis that it may use."""
    pose = np.random.default_rng(seed).uniform(-1, 1, (N, 6)) * (0.7, 0.5, 0.6, scale, 25, 25)
    if in_plane:
        pose[:, :2] = 0
    return pose


def clip_of(pose: np.ndarray, **actions: float) -> clips.Clip:
    """A face on a head that moves by ``pose``, making actions that grow to the given strength. No noise."""
    strengths = np.zeros((len(pose), len(face.ACTIONS), 2))
    for name, strength in actions.items():
        strengths[:, face.ACTIONS.index(name)] = strength * np.linspace(0, 1, len(pose))[:, None] ** 2
    movement = face.Motion(strengths, np.zeros((len(pose), 2)), pose)
    points, depth = face.move(NEUTRAL, movement)[:, :106], face.depth(NEUTRAL, movement)[:, :106]
    info = clips.ClipInfo("clip-7", "s", "smile", 0.0, len(pose))
    return clips.Clip(
        info, points.astype(np.float32), "insightface106", depth=(depth + 40 * np.sin(pose[:, :1])).astype(np.float32)
    )


def spread(trajectory: np.ndarray) -> float:
    """The largest distance, in pixels, of any point at any time from where it is on average."""
    return float(np.linalg.norm(trajectory - trajectory.mean(axis=0), axis=-1).max())


def test_the_stable_points_are_the_corners_of_the_eyes_and_the_bridge_of_the_nose():
    assert [landmarks.SLOT_NAMES[i] for i in head_motion.STABLE] == [
        "left_eye_left_corner",
        "left_eye_right_corner",
        "right_eye_left_corner",
        "right_eye_right_corner",
        "nose_bridge1",
        "nose_bridge3",
    ]


@pytest.mark.parametrize("seed", range(3))
def test_a_similarity_removes_all_motion_in_the_plane(seed):
    clip = clip_of(turning(seed, in_plane=True))
    assert spread(positions(clip)) > 20
    assert spread(positions(clip, "first_frame")) > 40
    assert spread(positions(clip, "similarity")) < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_turning_to_the_front_removes_all_motion_in_space(seed):
    rigid, zooming = clip_of(turning(seed, in_plane=False, scale=0)), clip_of(turning(seed, in_plane=False))
    assert spread(positions(rigid, "similarity")) > 5  # what no map of the plane removes
    assert spread(positions(rigid, frontalise=True)) < 1e-3
    assert spread(positions(zooming, frontalise=True)) > 5  # coming closer to the camera is not a turn
    assert spread(positions(zooming, "similarity", frontalise=True)) < 1e-3


def test_an_expression_on_a_moving_head_becomes_that_on_a_still_one():
    # None of these moves a stable point.
    actions = {"corner_pull": 1.0, "brow_raise": 1.0, "jaw": 0.6, "close": 1.0}
    still, moving = clip_of(STILL, **actions), clip_of(turning(0, in_plane=False, scale=0), **actions)
    expected = positions(still, frontalise=True)
    assert spread(expected) > 3
    np.testing.assert_allclose(positions(moving, frontalise=True), expected, rtol=0, atol=1e-3)

    # In the plane the clip's mean size and tilt remain: one map from still to moving for all frames.
    tilting = clip_of(turning(0, in_plane=True), **actions)
    found, true = (positions(clip, "similarity") @ (1, 1j) for clip in (tilting, still))
    turn = found[0, 0] / true[0, 0]
    np.testing.assert_allclose(found, turn * true, rtol=0, atol=1e-3)


def test_the_mean_size_and_tilt_of_the_clip_are_kept():
    pose = STILL.copy()
    swing = np.sin(1 + np.linspace(0, 2 * np.pi, N, endpoint=False))  # of mean 0, and not there in frame 0
    pose[:, 2] = 0.2 + 0.1 * swing
    pose[:, 3] = 0.1 + 0.2 * swing
    found = positions(clip_of(pose), "similarity")[0]
    at_mean = STILL[:1].copy()
    at_mean[:, 2:4] = 0.2, 0.1
    np.testing.assert_allclose(found, positions(clip_of(at_mean))[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("frontalise", [False, True])
def test_without_head_motion_a_frontal_face_passes_unchanged(frontalise):
    # Frontal by the definition: level eyes, and the corners of eyes and mouth at one depth.
    clip = clip_of(STILL, brow_raise=1.0, close=1.0)
    slots = landmarks.LAYOUTS["insightface106"].slots
    corners = slots[[*head_motion.STABLE[:4], *(landmarks.SLOT_NAMES.index(f"mouth_{k}_corner") for k in SIDES)]]
    depth, points = clip.depth.copy(), clip.landmarks.copy()
    depth[:, corners] = -46
    level = points[:, corners[:4], 1].mean()
    points[:, corners[:4], 1] = level
    clip = dataclasses.replace(clip, depth=depth, landmarks=points)
    np.testing.assert_allclose(positions(clip, "similarity", frontalise), positions(clip), rtol=0, atol=1e-3)
    np.testing.assert_allclose(positions(clip, "nose", frontalise), positions(clip), rtol=0, atol=1e-3)


def test_a_turned_head_faces_the_camera_afterwards():
    pose = STILL + np.array([0.5, -0.4, 0.3, 0, 9, -7])
    found = positions(clip_of(pose), frontalise=True)[0]
    np.testing.assert_allclose(found, positions(clip_of(STILL), frontalise=True)[0], rtol=0, atol=1e-3)
    left, right = (found[[landmarks.SLOT_NAMES.index(f"{side}_eye_{k}_corner") for k in SIDES]] for side in SIDES)
    assert abs(left.mean(axis=0)[1] - right.mean(axis=0)[1]) < 1e-3
    # A face is symmetric from the front: natural asymmetry is below 4 pixels, that of the turned head is not.
    turned = positions(clip_of(pose))[0]
    asymmetry = [np.abs(trajectories.mirror(x[None])[0] - x).max() for x in (found, turned)]
    assert asymmetry[0] < 4 < 20 < asymmetry[1]


def test_the_output_of_a_map_is_centred_on_its_own_nose():
    clip = clip_of(turning(1, in_plane=False))
    for frontalise in (False, True):
        each, first = (positions(clip, name, frontalise) for name in ("nose", "first_frame"))
        np.testing.assert_array_equal(each[0], first[0])
        shift = first - each  # how the nose moves after the turn: the same for all points
        np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-4)
        assert np.abs(shift).max() > 5
    # A head that shifts and does nothing else keeps that, turned to the front or not, as released.
    pose = turning(1, in_plane=False) * (0, 0, 0, 0, 1, 1)
    for frontalise in (False, True):
        first, each = (positions(clip_of(pose), name, frontalise) for name in ("first_frame", "nose"))
        shift = np.broadcast_to((pose - pose[0])[:, None, 4:], first.shape)
        np.testing.assert_allclose(first - each, shift, rtol=0, atol=1e-3)


def test_the_paper_is_the_default_to_the_last_bit():
    clip = clip_of(turning(2, in_plane=False), corner_pull=1.0)
    points, nose = landmarks.select(clip.landmarks, clip.layout), landmarks.nose_tip(clip.landmarks, clip.layout)
    np.testing.assert_array_equal(positions(clip), points - nose)
    np.testing.assert_array_equal(positions(clip, "first_frame"), points - nose[0])
    np.testing.assert_array_equal(trajectories.trajectory(clip, "xy"), positions(clip))
    released = trajectories.trajectory(clip, "xy", normalise="first_frame")
    np.testing.assert_array_equal(released, positions(clip, "first_frame"))


def test_only_centring_on_the_first_frame_keeps_head_translation():
    clip = clip_of(turning(2, in_plane=False), corner_pull=1.0)
    shift = np.random.default_rng(0).normal(0, 30, (N, 1, 2)).astype(np.float32)
    moved = dataclasses.replace(clip, landmarks=clip.landmarks + shift)
    for normalise in ("nose", "nose_mean"):
        np.testing.assert_allclose(positions(moved, normalise), positions(clip, normalise), rtol=0, atol=1e-4)
    kept = positions(moved, "first_frame") - positions(clip, "first_frame")
    np.testing.assert_allclose(kept, np.broadcast_to(shift - shift[0], kept.shape), rtol=0, atol=1e-4)


def test_an_error_of_one_point_hardly_moves_the_others_with_the_mean_of_the_nose():
    clip = clip_of(turning(0, in_plane=True))
    errors = np.random.default_rng(0).normal(0, 1, clip.landmarks.shape).astype(np.float32)

    def moved(option: str, points: list[int]) -> float:
        noise = np.zeros_like(errors)
        noise[:, points] = errors[:, points]
        noisy = dataclasses.replace(clip, landmarks=clip.landmarks + noise)
        change = positions(noisy, option) - positions(clip, option)
        return float(np.std(change[:, landmarks.SLOT_NAMES.index("mouth_left_corner")]))

    nose = [int(landmarks.LAYOUTS["insightface106"].slots[i]) for i in range(36, 45)]
    assert moved("nose", [NOSE]) > 0.8
    assert moved("nose_mean", [NOSE]) == 0  # the tip is none of the 63 points
    assert moved("nose_mean", nose) == pytest.approx(1 / 3, abs=0.05)  # nine independent errors average out
    shifted = dataclasses.replace(clip, landmarks=clip.landmarks + np.float32([3, 5]))
    np.testing.assert_allclose(positions(shifted, "nose_mean"), positions(clip, "nose_mean"), atol=1e-4)


@pytest.mark.parametrize("frontalise", [False, True])
@pytest.mark.parametrize("normalise", head_motion.NORMALISATIONS)
def test_noise_and_a_single_frame_pass(normalise, frontalise):
    rng = np.random.default_rng(0)
    for n in (1, 2, 40):
        clip = clip_of(turning(0, in_plane=False)[:1].repeat(n, axis=0))
        noisy = dataclasses.replace(
            clip,
            landmarks=clip.landmarks + rng.normal(0, 1, clip.landmarks.shape).astype(np.float32),
            depth=clip.depth + rng.normal(0, 3, clip.depth.shape).astype(np.float32),
        )
        found = positions(noisy, normalise, frontalise)
        assert found.shape == (n, 63, 2)
        assert found.dtype == np.float32
        assert np.all(np.isfinite(found))
        # 1 and 3 pixels of noise become a few: no fit turns it into something larger than itself.
        assert spread(found) < 15


def test_a_face_is_never_turned_inside_out():
    clip = clip_of(turning(0, in_plane=True), corner_pull=1.0)
    flipped = clip.landmarks.copy()
    flipped[5, :, 0] = 256 - flipped[5, :, 0]  # without its points changing sides
    found = positions(dataclasses.replace(clip, landmarks=flipped), "similarity")
    corners = ("left_eye_left_corner", "right_eye_right_corner", "mouth_left_corner")
    left, right, mouth = (found[:, landmarks.SLOT_NAMES.index(name)] for name in corners)
    across, down = right - left, mouth - left
    side = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    np.testing.assert_array_equal(np.sign(side), np.where(np.arange(N) == 5, -1, 1))


def test_layouts_agree():
    clip = clip_of(turning(0, in_plane=False), corner_pull=1.0)
    stored = dataclasses.replace(
        clip, landmarks=clip.landmarks[:, 33:], depth=clip.depth[:, 33:], layout="insightface73"
    )
    np.testing.assert_array_equal(positions(stored, "similarity", True), positions(clip, "similarity", True))


def test_unusable_clips_are_refused_by_name():
    clip = clip_of(turning(0, in_plane=False))
    with user_error("bad_data", "clip-7", "depth", "landmarks.frontalise"):
        positions(dataclasses.replace(clip, depth=None), frontalise=True)
    for value in (0, np.nan):
        broken = clip.landmarks.copy()
        broken[3] = value
        with user_error("bad_data", "clip-7", "frame 4"):
            positions(dataclasses.replace(clip, landmarks=broken), "similarity")
    line = clip.landmarks.copy()
    line[..., 1] = 90
    with user_error("bad_data", "clip-7", "landmarks.frontalise"):
        positions(dataclasses.replace(clip, landmarks=line, depth=np.zeros_like(clip.depth)), frontalise=True)


def test_the_depth_of_synthetic_faces_is_that_of_a_rigid_head():
    clip = clip_of(turning(0, in_plane=False, scale=0))
    space = np.concatenate([clip.landmarks, clip.depth[..., None]], axis=-1)
    apart = np.linalg.norm(space[:, :, None] - space[:, None], axis=-1)
    np.testing.assert_allclose(apart, apart[:1].repeat(N, axis=0), atol=1e-2)
    frontal = clip_of(STILL)
    assert np.all(frontal.depth[:, NOSE] < frontal.depth[:, 1])  # the nose is nearer than the contour
    # Where the nose points to, the face recedes.
    turned = clip_of(STILL + np.array([0.4, 0, 0, 0, 0, 0]))
    nose_goes = turned.landmarks[0, NOSE, 0] - frontal.landmarks[0, NOSE, 0]
    right_recedes = turned.depth[0, 17] - turned.depth[0, 1]
    assert nose_goes * right_recedes > 0
    assert abs(nose_goes) > 5


def test_the_clips_of_synthetic_faces_have_depth():
    source = SyntheticFaces(1, 2, ("smile",), with_frames=False)
    for index in range(2):
        clip = source[index]
        assert clip.depth.shape == clip.landmarks.shape[:2]
        assert clip.depth.dtype == np.float32
        movement, _ = source.scene(index)
        noise = clip.depth - face.depth(source.neutral(index), movement)[:, :106]
        assert abs(noise.std() - DEPTH_NOISE) < 0.1 * DEPTH_NOISE
    assert not np.array_equal(source[0].depth[:40], source[1].depth[:40])


def test_the_measurement_finds_what_each_option_is_for(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "SUBJECTS", 1)
    monkeypatch.setattr(benchmark, "SHOWN", 0)
    document = tmp_path / "a.md"
    document.write_text(f"before\n{benchmark.BEGIN}\nold\n{benchmark.END}\nafter\n")
    benchmark.main([str(document), str(tmp_path / "a.png")])
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert clips.decode_frame((tmp_path / "a.png").read_bytes()).std() > 10

    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    names = [benchmark.UNTOUCHED, *benchmark.OPTIONS]
    none, first, nose, mean, similar, nose_front, similar_front = range(len(names))
    strong = np.array([row[2:] for row in rows if row[0] == "three times"], float)
    left, kept, changed = strong[:, 2], strong[:, 4], strong[:, 5]
    assert left[none] == left[first] == kept[none] == kept[first] == 100
    assert 100 > left[nose] > max(left[mean], left[similar]) > left[nose_front] > 5 * left[similar_front] > 0
    assert left[similar_front] < 3
    assert changed[none] == changed[nose] == 0  # nothing that a fit could spread
    assert kept.min() > 95
    kinds = np.array([row[1:] for row in rows if len(row) == 6 and row[0] in names], float)
    turning, nodding, tilting, approaching, shifting = kinds.T
    assert np.all(kinds[none] > 0.3)
    assert np.all(shifting[nose:] < 0.01)
    assert np.all(tilting[similar:] < 0.2 * tilting[nose])
    assert np.all(approaching[[similar, similar_front]] < 0.2 * approaching[nose])
    assert np.all(np.stack([turning, nodding])[:, nose_front:] < 0.01)
