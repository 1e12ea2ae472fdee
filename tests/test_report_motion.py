"""The motion table against known motions."""

import dataclasses

import numpy as np
import pytest

from tests.raises import user_error
from tramp_jax.data import landmarks
from tramp_jax.report import motion
from tramp_jax.synthetic.faces import SyntheticFaces

GROUP = {name: slice(9 * i, 9 * i + 9) for i, name in enumerate(landmarks.GROUPS)}


@pytest.fixture(scope="module")
def face():
    """The 63 points (63, 2) of a face at rest, relative to the tip of the nose."""
    points = SyntheticFaces(1, 1, ("smile",), with_frames=False)[0].landmarks[:1]
    chosen = landmarks.select(points, "insightface106")
    return (chosen - landmarks.nose_tip(points, "insightface106"))[0].astype(np.float64)


def moving(face: np.ndarray, region: str, course: np.ndarray, direction=(0.0, 1.0)) -> np.ndarray:
    """(n, 63, 2): the points of one region follow ``course`` (n,), in inter-ocular distances; the rest stay still."""
    points = np.repeat(face[None], len(course), axis=0)
    unit = motion.inter_ocular(points)
    points[:, GROUP[region]] += unit * course[:, None, None] * np.array(direction)
    return points


def row(table: motion.MotionTable, region: str) -> motion.RegionMotion:
    return next(r for r in table.regions if r.region == region)


def sides(table: motion.MotionTable, pair: str) -> motion.SideMotion:
    return next(s for s in table.sides if s.pair == pair)


def ramp(n: int, fps: float, start: float, rise: float, hold: float, amplitude: float) -> np.ndarray:
    """(n,): 0 until ``start``, linearly up within ``rise`` seconds, held, and down again as fast."""
    knots = np.cumsum([start, rise, hold, rise])
    return amplitude * np.interp(np.arange(n) / fps, knots, [0, 1, 1, 0])


@pytest.mark.parametrize("fps", [25.0, 50.0])
@pytest.mark.parametrize("direction", [(0.0, 1.0), (0.6, -0.8)])
def test_sine_of_known_amplitude_and_frequency(face, fps, direction):
    times = np.arange(int(4 * fps)) / fps
    amplitude, hertz = 0.1, 1.5
    # Like a face, it starts at rest.
    course = amplitude * (1 - np.cos(2 * np.pi * hertz * times))
    table = motion.motion_table(moving(face, "lower_lip", course, direction), fps)
    lip = row(table, "lower_lip")
    assert lip.range == pytest.approx(2 * amplitude, rel=0.03)
    assert lip.peak_speed == pytest.approx(2 * np.pi * hertz * amplitude, rel=0.03)
    still = row(table, "left_brow")
    assert still.range == pytest.approx(0, abs=1e-9)
    assert still.peak_speed == pytest.approx(0, abs=1e-9)
    assert (still.onset_ms, still.rise_ms, still.hold_ms) == (None, None, None)
    # Nine of 63 points move: the root mean square over the face is 1/√7 of it.
    assert row(table, motion.FACE).range == pytest.approx(2 * amplitude / np.sqrt(7), rel=0.03)


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0])
@pytest.mark.parametrize("start", [0.4, 0.9])
def test_ramp_of_known_delay_speed_and_hold(face, fps, start):
    rise, hold, amplitude = 0.6, 0.8, 0.2
    course = ramp(int(4 * fps), fps, start, rise, hold, amplitude)
    lip = row(motion.motion_table(moving(face, "upper_lip", course), fps), "upper_lip")
    assert lip.onset_ms == pytest.approx(1000 * (start + 0.1 * rise), abs=15)
    assert lip.rise_ms == pytest.approx(1000 * 0.8 * rise, abs=20)
    assert lip.hold_ms == pytest.approx(1000 * (hold + 2 * 0.1 * rise), abs=30)
    assert lip.range == pytest.approx(amplitude, rel=0.05)
    assert lip.peak_speed == pytest.approx(amplitude / rise, rel=0.1)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("left", "right", "pair"), [("left_eye", "right_eye", "eyes"), ("left_brow", "right_brow", "brows")]
)
def test_asymmetry_of_a_known_factor(face, factor, left, right, pair):
    course = ramp(80, 25, 0.5, 0.5, 1.0, 0.1)
    points = moving(face, left, course) + moving(face, right, factor * course) - face
    found = sides(motion.motion_table(points, 25), pair)
    assert found.left == pytest.approx(0.1, rel=0.1)
    assert found.right == pytest.approx(factor * 0.1, rel=0.1)
    assert found.asymmetry == pytest.approx((1 - factor) / (1 + factor), abs=0.01)


def test_asymmetry_of_the_mouth_is_found_within_the_lips(face):
    course = ramp(80, 25, 0.5, 0.5, 1.0, 0.1)
    points = np.repeat(face[None], 80, axis=0)
    on_the_right = [i for i, name in enumerate(landmarks.SLOT_NAMES) if name.startswith("mouth") and "right" in name]
    points[:, on_the_right, 1] -= motion.inter_ocular(points) * course[:, None]
    table = motion.motion_table(points, 25)
    assert sides(table, "lower_lip").asymmetry == pytest.approx(-1, abs=0.01)
    assert sides(table, "upper_lip").asymmetry == pytest.approx(-1, abs=0.01)
    assert sides(table, "eyes").asymmetry is None


def test_units_follow_the_face_and_the_frame_rate(face):
    course = ramp(80, 25, 0.5, 0.5, 1.0, 0.1)
    points = moving(face, "left_brow", course)
    table, larger = motion.motion_table(points, 25), motion.motion_table(3 * points, 25)
    assert larger.inter_ocular == pytest.approx(3 * table.inter_ocular)
    for one, other in zip(table.regions, larger.regions, strict=True):
        np.testing.assert_allclose(dataclasses.astuple(one)[1:3], dataclasses.astuple(other)[1:3], atol=1e-9)
    fast, slow = row(motion.motion_table(points, 50), "left_brow"), row(table, "left_brow")
    assert fast.onset_ms == pytest.approx(slow.onset_ms / 2, rel=0.05)
    corners = [landmarks.SLOT_NAMES.index(n) for n in ("left_eye_left_corner", "right_eye_right_corner")]
    assert table.inter_ocular == pytest.approx(np.linalg.norm(face[corners[0]] - face[corners[1]]))


def test_jitter_without_movement_gives_no_timing(face):
    """Justifies the threshold for "clear of the jitter"."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(5, 120))
        points = face + rng.normal(0, rng.uniform(0.1, 2.0), (n, 63, 2))
        table = motion.motion_table(points, 25)
        assert all(region.onset_ms is None for region in table.regions), (seed, table.regions)
        assert all(side.asymmetry is None for side in table.sides), seed


def test_jitter_hardly_changes_the_measurements(face):
    course = ramp(80, 25, 0.6, 0.5, 1.0, 0.15)
    points = moving(face, "upper_lip", course)
    clean = row(motion.motion_table(points, 25), "upper_lip")
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(0, 0.5, points.shape)  # pixels; the face is some 90 wide
        noisy = row(motion.motion_table(points + noise, 25), "upper_lip")
        assert noisy.range == pytest.approx(clean.range, rel=0.1)
        assert noisy.peak_speed == pytest.approx(clean.peak_speed, rel=0.25)
        assert noisy.onset_ms == pytest.approx(clean.onset_ms, abs=60)
        assert noisy.rise_ms == pytest.approx(clean.rise_ms, abs=100)
        assert noisy.hold_ms == pytest.approx(clean.hold_ms, rel=0.15)


def test_five_frames_suffice_and_unusable_points_are_refused(face):
    points = np.repeat(face[None], 5, axis=0)
    for n, fps in ((5, 25.0), (6, 50.0), (7, 10.0)):
        table = motion.motion_table(np.repeat(face[None], n, axis=0), fps)
        assert table.window == 5
        assert all(region.range == pytest.approx(0, abs=1e-9) for region in table.regions)
    for unusable, fps, fact in (
        (points[:4], 25, 4),
        (points, 0, 0),
        (points * np.nan, 25, ""),
        (points * 0, 25, "eye corners"),
    ):
        with user_error("bad_data", fact):
            motion.motion_table(unusable, fps)
