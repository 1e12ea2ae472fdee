"""Quality of the landmarks: turns of the head, jitter, points outside the picture, and what a turn does to symmetry."""

import dataclasses
import json

import numpy as np
import pytest

from tests.raises import user_error
from tramp_jax.data import clip_folder, clips, head_motion, landmark_quality, landmarks
from tramp_jax.data.face_box import Box
from tramp_jax.preprocess import batch
from tramp_jax.report import motion, plots, record, writer
from tramp_jax.synthetic import face
from tramp_jax.synthetic.faces import LAYOUT, SyntheticFaces
from tramp_jax.usual_motion import UsualMotion

N, FPS = 75, 25.0
TIMES = np.arange(N) / FPS
_MOVES = ({"corner_pull": 1.0, "cheek": 0.7, "lips_part": 0.7}, {"brow_lower": 1.0, "lip_press": 0.4})


def clip_of(points: np.ndarray, fps: float = FPS) -> clips.Clip:
    """A clip with the 106 landmarks (n, 106, 2)."""
    info = clips.ClipInfo("clip", "person", "smile", 2.0, len(points))
    return clips.Clip(info, points.astype(np.float32), LAYOUT, None, None, fps)


def drawn(seed: int, yaw: np.ndarray, pitch: np.ndarray | float = 0.0, moves=(), jitter: float = 0.3) -> clips.Clip:
    """A drawn face that moves symmetrically, with turns (n,) in degrees as ``landmark_quality`` defines them."""
    rng = np.random.default_rng(seed)
    n = len(yaw)
    pose = np.zeros((n, 6))
    pose[:, 0], pose[:, 1] = np.radians(yaw), -np.radians(pitch)
    actions = np.zeros((n, len(face.ACTIONS), 2))
    for name, strength in dict(moves).items():
        actions[:, face.ACTIONS.index(name)] = (
            strength * np.interp(TIMES, [0, 0.5, 0.9, 2, 2.4], [0, 0, 1, 1, 0])[:, None]
        )
    points = face.move(face.draw_neutral(rng), face.Motion(actions, np.zeros((n, 2)), pose))[:, : face.NUM_LANDMARKS]
    return clip_of(points + rng.normal(0, jitter, points.shape))


def mirrored(clip: clips.Clip) -> clips.Clip:
    """The clip as a mirrored camera shows it, in the layout of 64 points."""
    points = landmarks.select(clip.landmarks, clip.layout)[:, landmarks.MIRROR]
    points = np.concatenate([points, landmarks.nose_tip(clip.landmarks, clip.layout)], axis=1)
    points[..., 0] = 256 - points[..., 0]
    return dataclasses.replace(clip, landmarks=points, layout="points63")


def test_turns_of_drawn_faces_are_as_exact_as_stated():
    rng = np.random.default_rng(0)
    wrong = []
    for seed in range(200):
        yaw, pitch = rng.uniform(-40, 40, 10), rng.uniform(-20, 20, 10)
        found = landmark_quality.measure(drawn(seed, yaw, pitch))
        wrong.append(np.abs([found.yaw - yaw, found.pitch - pitch]))
    yaw, pitch = np.percentile(np.concatenate(wrong, axis=1), 95, axis=1)
    assert 0.6 * landmark_quality.YAW_ERROR < yaw <= landmark_quality.YAW_ERROR
    assert 0.6 * landmark_quality.PITCH_ERROR < pitch <= landmark_quality.PITCH_ERROR


def test_a_tilt_or_another_size_is_not_a_turn():
    clip = drawn(0, np.full(N, 20.0), 10.0, jitter=0)
    upright = landmark_quality.measure(clip)
    angle = np.radians(25)
    turn = 0.5 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    tilted = landmark_quality.measure(clip_of(clip.landmarks @ turn.T))
    np.testing.assert_allclose(tilted.yaw, upright.yaw, atol=0.01)
    np.testing.assert_allclose(tilted.pitch, upright.pitch, atol=0.01)


@pytest.mark.parametrize("jitter", [0.05, 0.3, 1.0])
def test_a_still_face_shows_the_jitter_that_it_was_given(jitter):
    found = [landmark_quality.measure(drawn(seed, np.zeros(N), jitter=jitter)) for seed in range(10)]
    assert [quality.usual_jitter for quality in found] == pytest.approx([jitter] * 10, rel=0.2)
    assert np.mean([quality.usual_jitter for quality in found]) == pytest.approx(jitter, rel=0.05)
    assert found[0].relative_jitter == pytest.approx(found[0].usual_jitter / found[0].pupil_distance)
    steps = np.abs(np.diff(drawn(0, np.zeros(N), jitter=jitter).landmarks, axis=0))
    assert (steps > 3 * np.sqrt(2) * jitter).mean() == pytest.approx(1 / 370, rel=0.3)
    assert found[0].smallest_motion == pytest.approx(3 * np.sqrt(2) * jitter, rel=0.2)


def test_movement_is_not_jitter():
    for index in range(10):
        clip = SyntheticFaces(2, 1, with_frames=False)[index]
        assert landmark_quality.measure(clip).usual_jitter == pytest.approx(0.3, rel=0.3)
    fast = drawn(0, 30 * np.sin(2 * np.pi * TIMES), jitter=0.3)
    assert landmark_quality.measure(fast).usual_jitter == pytest.approx(0.3, rel=0.3)


def test_mirrored_input_gives_mirrored_measures():
    clip = drawn(3, np.linspace(0, 25, N), 5.0, _MOVES[0])
    one, other = landmark_quality.measure(clip), landmark_quality.measure(mirrored(clip))
    np.testing.assert_allclose(other.yaw, -one.yaw, atol=1e-3)
    for name in ("inside", "pitch", "jitter"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-3)
    tables = [
        motion.motion_table(head_motion.positions(c, head_motion.SIMILARITY), FPS) for c in (clip, mirrored(clip))
    ]
    assert any(side.asymmetry for side in tables[0].sides)
    for side, image in zip(*(table.sides for table in tables), strict=True):
        assert (image.left, image.right) == pytest.approx((side.right, side.left), rel=1e-3)
        assert (image.asymmetry is None) == (side.asymmetry is None)
        assert image.asymmetry is None or image.asymmetry == pytest.approx(-side.asymmetry, abs=1e-3)


@pytest.mark.parametrize("held", [True, False])
def test_a_turned_head_shows_no_false_asymmetry_beyond_the_stated_bound(held):
    found = []
    for seed in range(2):
        for moves in _MOVES:
            for degrees in (-30, 5, 15):
                yaw = degrees * (np.ones(N) if held else np.interp(TIMES, [0.5, 1.5], [0, 1]))
                points = head_motion.positions(drawn(seed, yaw, moves=moves), head_motion.SIMILARITY)
                sides = motion.motion_table(points, FPS).sides
                found += [abs(side.asymmetry) for side in sides if side.asymmetry is not None]
    bound = motion.FALSE_ASYMMETRY_HELD if held else motion.FALSE_ASYMMETRY_TURNING
    assert 0 < max(found) <= bound


def test_points_outside_the_picture_and_unsure_frames_get_warnings():
    clip = drawn(0, np.zeros(N), jitter=0)
    assert landmark_quality.measure(clip, np.ones(N)).warnings() == ()
    right = float(np.percentile(landmarks.select(clip.landmarks, LAYOUT)[0, :, 0], 75))
    confidence = np.where(np.arange(N) < 10, 0.6, 1.0)
    cut = landmark_quality.measure(clip, confidence, (0, 0, right, 256))
    assert cut.share_outside == 1
    assert cut.inside.min() == pytest.approx(0.75, abs=0.03)
    outside, unsure = cut.warnings()
    assert "75 of 75" in outside
    assert "10 of 75" in unsure
    (turned,) = landmark_quality.measure(drawn(0, np.where(TIMES < 1, 50.0, 0.0))).warnings()
    assert "25 of 75" in turned
    (shaking,) = landmark_quality.measure(drawn(0, np.zeros(N), jitter=2.0)).warnings()
    assert "jitter" in shaking


def test_the_crop_knows_which_part_of_it_shows_the_picture():
    box = Box(-64, 20, 512)
    assert box.picture((320, 240)) == (32, 0, 192, 110)


def test_short_and_degenerate_clips_have_unknown_values():
    short = landmark_quality.measure(drawn(0, np.zeros(3)))
    assert np.isnan(short.jitter).all()
    assert np.isfinite(short.yaw).all()
    point = landmark_quality.measure(clip_of(np.ones((8, 106, 2))))
    assert np.isnan(point.yaw).all()
    assert np.isnan(point.relative_jitter)
    assert np.isnan(point.largest_yaw)
    assert json.dumps(point.as_json(), allow_nan=False)


def test_turns_beyond_those_of_the_training_clips_are_recognised():
    usual = UsualMotion((0.0,), (1.0,), 1.0, (-10.0, 10.0), (-15.0, 15.0))
    assert usual.turned(landmark_quality.measure(drawn(0, np.full(N, 8.0)))) == ""
    assert "yaw up to -" in usual.turned(landmark_quality.measure(drawn(0, np.full(N, -30.0))))
    assert UsualMotion((0.0,), (1.0,), 1.0).turned(landmark_quality.measure(drawn(0, np.full(N, 60.0)))) == ""


def test_the_quality_of_a_clip_in_a_folder_follows_from_its_evidence(tmp_path):
    clip = drawn(0, np.zeros(N))
    folder = tmp_path / "clip"
    clip_folder.write_clip(folder, clip)
    assert np.isnan(batch.read_origin(folder, N).quality(clip).confidence).all()
    evidence = {"scores": [None] + [0.5] * (N - 1), "crop": {"x": 0, "y": 0, "side": 256}, "frame_size": [128, 256]}
    (folder / batch.EVIDENCE).write_text(json.dumps(evidence))
    found = batch.read_origin(folder, N).quality(clip)
    assert found.share_outside == 1
    assert np.isnan(found.confidence[0])
    assert (found.confidence[1:] == 0.5).all()
    for wrong in ({"scores": [1]}, {"crop": {"x": 0, "y": 0, "side": 0}}, {"frame_size": ["a", 2]}):
        (folder / batch.EVIDENCE).write_text(json.dumps(evidence | wrong))
        with user_error("damaged_file", folder / batch.EVIDENCE):
            batch.read_origin(folder, N).quality(clip)


def test_the_report_shows_the_quality(monkeypatch):
    monkeypatch.setattr(plots, "_encode", lambda *_: b"\x89PNG")  # plots take seconds
    clip = drawn(0, np.linspace(0, 20, N))
    quality = landmark_quality.measure(clip)
    text = writer.render(record.Evidence(clip, 2.0, quality=quality))
    assert f"{quality.smallest_motion:.1f} pixels" in text
    assert "head turned to the side" in text
    assert "unknown" in text  # the confidence
    assert "not measured" in writer.render(record.Evidence(clip, 2.0))
