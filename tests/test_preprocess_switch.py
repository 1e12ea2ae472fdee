"""A change of person in the same place is noticed; expressions, blinks and head turns are not mistaken for one."""

import dataclasses
import functools
import itertools

import cv2
import numpy as np
import pytest

from tests import preprocess_inputs
from tests.preprocess_inputs import GivenSource, moved, photograph, real_video, write_video
from tests.raises import user_error
from tramp_jax.preprocess import PreprocessOptions, appearance, preprocess_video
from tramp_jax.preprocess.video import open_frames
from tramp_jax.synthetic import face
from tramp_jax.synthetic.faces import SyntheticFaces

CORNER = (60, 40)  # where faces are pasted
PEOPLE = SyntheticFaces(8, 1, expressions=("smile", "squeeze_eyes"), seed=5)


@functools.cache
def room():
    """A textured background (480, 800, 3) that stays when the face changes."""
    noise = np.random.default_rng(1).normal(128, 400, (480, 800, 3))
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 9), 0, 255).astype(np.uint8)


def pasted(crops):
    x, y = CORNER
    frames = [room().copy() for _ in crops]
    for frame, crop in zip(frames, crops, strict=True):
        if crop is not None:
            frame[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    return frames


def drawn(index, count, motion=None):
    """Frames of a drawn person in the room, and their points."""
    movement = motion or PEOPLE.motion(index)
    points = face.move(PEOPLE.neutral(index), movement)
    painter = PEOPLE.painter(index, (movement, points))
    times = range(10, 10 + count)
    return pasted([painter.paint(t) for t in times]), [points[t, :106] + CORNER for t in times]


def joined(*parts):
    """Joins parts (frames, points) into one video. Returns its frames and a source for it."""
    frames, points = (list(itertools.chain(*each)) for each in zip(*parts, strict=True))
    return frames, GivenSource(points)


def nobody(count):
    return pasted([None] * count), [None] * count


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations((0, 4, 8, 10), 2)))
def test_another_drawn_person_in_the_same_place_is_refused(tmp_path, first, second):
    frames, source = joined(drawn(first, 14), drawn(second, 16))
    video = write_video(tmp_path / "video.mp4", frames)
    with user_error("no_single_face", video, "frame 15", "another face"):
        preprocess_video(video, source)
    made = preprocess_video(video, source, PreprocessOptions(keep="longest"))
    np.testing.assert_array_equal(made.source_frames, range(14, 30))
    assert "frame 15" in made.warnings[0]


def test_another_person_after_a_gap_is_not_interpolated_into_the_first(tmp_path):
    frames, source = joined(drawn(0, 12), nobody(4), drawn(6, 12))
    video = write_video(tmp_path / "video.mp4", frames)
    with user_error("no_single_face", video, "frame 17", "another face", "frame 12"):
        preprocess_video(video, source)


def test_another_person_for_a_moment_is_bridged_with_a_warning(tmp_path):
    first, second = drawn(0, 24), drawn(6, 3)
    frames, source = joined([part[:10] for part in first], second, [part[13:] for part in first])
    made = preprocess_video(write_video(tmp_path / "video.mp4", frames), source)
    np.testing.assert_array_equal(np.flatnonzero(made.interpolated), [10, 11, 12])
    assert any("another face" in warning and "frames 11-13 (3)" in warning for warning in made.warnings)


def test_a_quick_dissolve_into_another_person_gives_a_warning(tmp_path):
    """It looks like a quick turn of the head, so the video is not refused."""
    frames, source = joined(drawn(0, 12), drawn(8, 14))
    for t, share in ((12, 1 / 3), (13, 2 / 3)):
        frames[t] = cv2.addWeighted(frames[t - 2], 1 - share, frames[t], share, 0)
    video = write_video(tmp_path / "video.mp4", frames)
    assert any("dissolves" in warning and "frames 1" in warning for warning in preprocess_video(video, source).warnings)


@pytest.mark.parametrize("index", range(1, 16, 4))
@pytest.mark.parametrize("turn", [0.0, 0.9])
def test_strong_expressions_blinks_and_quick_turns_keep_the_person(tmp_path, index, turn):
    """Half as strong again as the strongest, with a turn by 50 degrees and back, each in a quarter of a second."""
    motion = PEOPLE.motion(index)
    actions = 1.5 * motion.actions
    actions[20::8, face.ACTIONS.index("close")] += 1.2
    course = np.clip((np.arange(len(actions)) - 15) / 6, 0, 1) - np.clip((np.arange(len(actions)) - 28) / 6, 0, 1)
    pose = motion.pose.copy()
    pose[:, 0] += turn * course**2 * (3 - 2 * course)
    frames, source = joined(drawn(index, 32, dataclasses.replace(motion, actions=actions, pose=pose)))
    made = preprocess_video(write_video(tmp_path / "video.mp4", frames), source)
    assert len(made.source_frames) == 32
    assert not made.interpolated.any()


# Real faces


mediapipe = preprocess_inputs.mediapipe  # the fixture


@functools.cache
def crops(name, first, count, mediapipe):
    """Crops of 200×200 around the face of a real video, from frame ``first`` on."""
    if name == "photograph":
        frames = moved(photograph(), [(2 * np.sin(t / 3), 0) for t in range(count)])
    else:
        frames = [frame for _, frame in itertools.islice(open_frames(real_video(name)), first, first + count)]
    left, top, right, bottom = next(iter(mediapipe(frames[:1])))[0].box
    side = 1.3 * max(right - left, bottom - top)
    scale, x, y = 200 / side, (left + right - side) / 2, (top + bottom - side) / 2
    matrix = np.array([[scale, 0, -scale * x], [0, scale, -scale * y]])
    return [cv2.warpAffine(frame, matrix, (200, 200), borderMode=cv2.BORDER_REPLICATE) for frame in frames]


REAL = [("single_face.mp4", 0), ("WolfgangLanger_Pexels.mp4", 300), ("photograph", 0)]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(REAL, 2)))
@pytest.mark.parametrize("gap", [0, 4])
def test_another_real_person_in_the_same_place_is_refused(tmp_path, mediapipe, first, second, gap):
    frames = pasted([*crops(*first, 20, mediapipe), *[None] * gap, *crops(*second, 20, mediapipe)])
    video = write_video(tmp_path / "video.mp4", frames)
    with user_error("no_single_face", video, f"frame {21 + gap}", "another face"):
        preprocess_video(video, mediapipe)


@pytest.mark.parametrize("name", ["single_face.mp4", "WolfgangLanger_Pexels.mp4"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_real_person_is_followed_throughout(tmp_path, mediapipe, name, every):
    """Also with only every third frame, so everything moves three times as fast."""
    video = real_video(name)
    if every > 1:
        frames = [frame for _, frame in itertools.islice(open_frames(video), 0, None, every)]
        video = write_video(tmp_path / "video.mp4", frames)
    made = preprocess_video(video, mediapipe)
    assert not made.interpolated.any()
    assert not any("another face" in warning for warning in made.warnings)
    assert every > 1 or not made.warnings


# The look and its differences


def test_a_look_does_not_depend_on_position_size_or_light():
    frames, points = drawn(0, 1)
    look = appearance.look(frames[0], points[0], "insightface106")
    assert look.shape == (appearance.SIZE, appearance.SIZE)
    turn = cv2.getRotationMatrix2D((200, 180), 20, 1.4)
    turned = cv2.warpAffine(frames[0], turn, (800, 480), borderMode=cv2.BORDER_REPLICATE)
    there = points[0] @ turn[:, :2].T + turn[:, 2]
    assert appearance.difference(look, appearance.look(turned, there, "insightface106")) < 0.03
    darker = appearance.look((0.4 * frames[0]).astype(np.uint8), points[0], "insightface106")
    assert appearance.difference(look, darker) < 0.005


def test_looks_that_cannot_be_compared_do_not_differ():
    flat = np.full((appearance.SIZE, appearance.SIZE), 80, np.uint8)
    look = np.random.default_rng(0).integers(0, 255, flat.shape).astype(np.uint8)
    assert appearance.difference(None, look) == appearance.difference(flat, look) == 0
    assert appearance.look(np.zeros((9, 9, 3), np.uint8), np.full((64, 2), 3.0), "points63") is None
    assert appearance.difference(look, 255 - look) == pytest.approx(2)
