from itertools import pairwise

import numpy as np
import pytest

from tests.preprocess_inputs import grid
from tests.raises import user_error
from tramp_jax.data.face_box import Box
from tramp_jax.data.frame_numbers import spell
from tramp_jax.preprocess import crop, tracking
from tramp_jax.preprocess.faces import Face, overlap


def face(x, y=100.0, side=80.0, score=0.9):
    box = np.array([x, y, x + side, y + side], np.float32)
    return Face(box, score, grid(box), np.full(64, x, np.float32))


def test_overlap_of_boxes():
    a = np.array([0, 0, 10, 10], float)
    assert overlap(a, a) == 1
    assert overlap(a, a + 20) == 0
    assert overlap(a, np.array([5, 0, 15, 10], float)) == pytest.approx(50 / 150)


def test_the_largest_face_is_followed_by_overlap():
    frames = [[face(300, side=60), face(10 + 8 * t)] for t in range(20)]
    frames = [faces[:: -1 if t % 2 else 1] for t, faces in enumerate(frames)]  # the detector's order does not matter
    track = tracking.follow(frames)
    assert [each.box[0] for each in track.faces] == [10 + 8 * t for t in range(20)]
    assert "20 of 20 frames" in track.warnings[0]
    assert "x 50, y 140" in track.warnings[0]


def test_a_larger_bystander_gives_a_warning():
    frames = [[face(10)] + ([face(300, side=150)] if t > 10 else []) for t in range(20)]
    track = tracking.follow(frames)
    assert "frames 12-20 (9)" in track.warnings[0]


def test_short_gaps_are_bridged_by_interpolation_and_marked():
    frames = [[face(10 + 4.0 * t)] for t in range(20)]
    for t in (7, 8, 9, 15):
        frames[t] = []
    track = tracking.follow(frames, max_gap=3)
    np.testing.assert_array_equal(np.flatnonzero(track.interpolated), [7, 8, 9, 15])
    for t, each in enumerate(track.faces):
        np.testing.assert_allclose(each.points, face(10 + 4.0 * t).points, rtol=1e-5)
        np.testing.assert_allclose(each.depth, 10 + 4.0 * t, rtol=1e-5)
        assert np.isnan(each.score) == track.interpolated[t]
    assert "frames 8-10, 16 (4)" in track.warnings[0]


def test_a_longer_gap_is_refused_with_its_frames_or_cut_off():
    frames = [[face(10)] if not 12 <= t < 16 else [] for t in range(30)]
    with user_error("no_single_face", "frame 13", "3 frames", "frames 17-30 (14)", "--keep longest"):
        tracking.follow(frames, max_gap=3)
    track = tracking.follow(frames, max_gap=3, keep="longest")
    assert (track.first, len(track.faces)) == (16, 14)
    assert "frame 13" in track.warnings[0]
    assert "frames 1-16 (16)" in track.warnings[1]


def test_another_person_is_never_followed_silently():
    frames = [[face(10)] if t < 12 else [face(300)] for t in range(30)]
    with user_error("no_single_face", "frame 13", "another face"):
        tracking.follow(frames)
    track = tracking.follow(frames, keep="longest")
    assert (track.first, len(track.faces)) == (12, 18)
    assert {each.box[0] for each in track.faces} == {300}


def test_a_cut_to_another_shot_ends_the_track_though_the_boxes_overlap():
    frames = [[face(10)] for _ in range(30)]
    with user_error("no_single_face", "shot", "frame 21"):
        tracking.follow(frames, cuts=[20])
    track = tracking.follow(frames, cuts=[20], keep="longest")
    assert (track.first, len(track.faces)) == (0, 20)


def test_ends_without_a_face_are_cut_off():
    frames = [[face(10)] if 5 <= t < 25 else [] for t in range(30)]
    track = tracking.follow(frames)
    assert (track.first, len(track.faces)) == (5, 20)
    (warning,) = track.warnings
    assert "frames 1-5, 26-30 (10) of 30" in warning
    with user_error("no_single_face", "20 of the 60 frames", "frames 6-25 (20)"):
        tracking.follow([*frames, *[[]] * 30])
    assert len(tracking.follow([*frames, *[[]] * 30], keep="longest").faces) == 20


def test_brief_false_detections_at_either_end_are_cut_off():
    frames = [[face(300)] if t in (0, 1, 58) else [face(10)] if 10 <= t < 50 else [] for t in range(60)]
    track = tracking.follow(frames)
    assert (track.first, len(track.faces)) == (10, 40)
    assert "frames 1-10, 51-60 (20)" in track.warnings[0]


def test_no_face_and_wrong_options_are_refused():
    with user_error("no_single_face", "9 frames"):
        tracking.follow([[]] * 9)
    with user_error("bad_option", "--keep", "'shortest'", *tracking.KEEP):
        tracking.follow([[face(1)]], keep="shortest")


def changes(pictures):
    return [tracking.change(before, after) for before, after in pairwise(pictures)]


def test_cuts_are_found_where_the_whole_picture_changes_at_once():
    rng = np.random.default_rng(0)
    rooms = rng.integers(0, 255, (2, 18, 32))
    noise = rng.normal(0, 3, (40, 18, 32))
    pictures = np.clip(rooms[[0] * 15 + [1] * 25] + noise, 0, 255).astype(np.uint8)
    assert tracking.scene_cuts(changes(pictures)) == [15]
    wild = list(rng.integers(0, 255, (40, 18, 32)).astype(np.uint8))  # changes all the time, so no cut stands out
    assert tracking.scene_cuts(changes(wild)) == []
    assert tracking.scene_cuts([]) == []


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (12, "frame 13"),
        ([12], "frame 13"),
        (range(3, 8), "frames 4-8 (5)"),
        ([0, 1, 5], "frames 1-2, 6 (3)"),
        (np.arange(0, 30, 2), "frames 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 and 5 more runs (15)"),
    ],
)
def test_messages_count_frames_from_1(frames, text):
    assert spell(frames) == text


# The crop


def test_one_square_for_all_frames():
    boxes = [face(x).box for x in (98.0, 100, 100, 100, 102)]
    box, warnings = crop.choose(boxes, (640, 480))
    assert (box.x, box.y, box.side) == (88, 88, 104)  # 1.3 · 80 around (140, 140)
    (warning,) = warnings
    assert "104 pixels" in warning
    np.testing.assert_allclose(
        box.map(np.array([[88.0, 88], [192, 192], [140, 140]])), [[0, 0], [256, 256], [128, 128]]
    )


@pytest.mark.parametrize("lefts", [(100.0, 100, 100, 400), (400.0, 400, 400, 100)])
def test_the_square_grows_if_the_face_leaves_it(lefts):
    boxes = [face(x, side=200.0).box for x in lefts]
    box, warnings = crop.choose(boxes, (1280, 720))
    assert box.x <= 100
    assert box.x + box.side >= 600
    assert box.side <= 530  # no larger than the usual square of 260 and all boxes need
    assert "the head moves" in warnings[0]


def test_a_square_that_fits_is_moved_into_the_frame():
    box, _ = crop.choose([np.array([-20.0, 300, 180, 500])], (640, 480))
    assert (box.x, box.y, box.side) == (0, 220, 260)
    box, _ = crop.choose([np.array([0.0, 0, 400, 400])], (640, 480))  # 520 pixels, more than the frame is high
    assert (box.x, box.y, box.side) == (0, -60, 520)


@pytest.mark.parametrize(("x", "y", "side"), [(20, 30, 128), (37, 11, 300), (-40, -25, 200), (250, 180, 200)])
def test_points_and_pixels_are_cropped_alike(x, y, side):
    """Coloured dots of the frame appear in the crop where ``map`` puts them."""
    box = Box(x, y, side)
    at = np.stack(np.meshgrid(np.arange(24, 300, 24), np.arange(24, 220, 24)), axis=-1).reshape(-1, 2)
    points = at[((at > (x + 8, y + 8)) & (at < (x + side - 8, y + side - 8))).all(axis=1)]
    assert len(points) >= 4
    frame = np.zeros((240, 320, 3), np.uint8)
    for i, (px, py) in enumerate(points):
        frame[py - 6 : py + 6, px - 6 : px + 6] = (55 + i, 255 - i, 128)
    cut = box.cut(frame)
    assert cut.shape == (256, 256, 3)
    for i, corner in enumerate(points):
        # Just inside each corner of the dot and at its centre, so a shift by 2 pixels would show.
        for shift in ((-4, -4), (4, -4), (0, 0), (-4, 4), (4, 4)):
            px, py = box.map(corner + np.array(shift)).astype(int)
            np.testing.assert_allclose(cut[py, px].astype(int), (55 + i, 255 - i, 128), atol=3)


def test_outside_the_frame_the_crop_is_black():
    cut = Box(-100, 0, 200).cut(np.full((200, 200, 3), 200, np.uint8))
    assert cut[:, :120].max() == 0
    assert cut[:, 136:].min() == 200
