from collections import Counter

import numpy as np
import pytest

from tests import youtubepd_layout
from tests.raises import user_error
from tramp_jax.data import landmarks
from tramp_jax.data.landmarks import FACEPP_106, GROUP_SIZE, GROUPS, LAYOUTS, MIRROR, NUM_LANDMARKS, SLOT_NAMES
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers import youtubepd
from tramp_jax.data.source import Wanted

INSIGHTFACE = ("insightface106", "insightface73", "insightface71")

# Written out from the 106-point mark-up drawing, group by group.
# fmt: off
SLOTS_106 = [
    33, 35, 36, 37, 38, 39, 40, 41, 42,  43, 44, 45, 46, 47, 48, 49, 50, 51,
    87, 89, 90, 91, 92, 93, 94, 95, 96,  97, 98, 99, 100, 101, 102, 103, 104, 105,
    72, 74, 75, 76, 78, 80, 84, 82, 81,
    52, 54, 60, 57, 61, 58, 59, 56, 55,  52, 63, 67, 61, 69, 70, 62, 66, 65,
]
# fmt: on


def group(name: str) -> slice:
    start = GROUPS.index(name) * GROUP_SIZE
    return slice(start, start + GROUP_SIZE)


def other_side(name: str) -> str:
    return name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")


def test_slots_are_seven_groups_of_nine():
    assert len(GROUPS) * GROUP_SIZE == NUM_LANDMARKS == 63
    np.testing.assert_array_equal(LAYOUTS["insightface106"].slots, SLOTS_106)
    assert len(set(SLOTS_106)) == 61


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_mouth_corners_belong_to_two_groups(layout):
    slots = LAYOUTS[layout].slots
    twice = {point for point, count in Counter(slots.tolist()).items() if count > 1}
    corners = slots[group("lower_lip")][[0, 4]]
    assert twice == set(corners)
    np.testing.assert_array_equal(corners, slots[group("upper_lip")][[0, 3]])
    assert LAYOUTS[layout].nose_tip not in slots
    assert 0 <= slots.min() <= slots.max() < LAYOUTS[layout].num_points


def test_released_deletions_give_the_71_points():
    # The published arrays hold points 33 to 105; the released code deletes row 1 and then, of the rest, row 54.
    left = np.delete(np.delete(np.arange(33, 106), 1), 54)
    np.testing.assert_array_equal(left, landmarks.INSIGHTFACE_71)


def test_the_insightface_layouts_select_the_same_points():
    points = np.random.default_rng(0).normal(size=(4, 106, 2))
    stored = {
        "insightface106": points,
        "insightface73": points[:, 33:],
        "insightface71": points[:, landmarks.INSIGHTFACE_71],
    }
    for name in INSIGHTFACE:
        np.testing.assert_array_equal(landmarks.select(stored[name], name), points[:, SLOTS_106])
        np.testing.assert_array_equal(landmarks.nose_tip(stored[name], name), points[:, [86]])


def test_facepp_names():
    assert len(set(FACEPP_106)) == 106
    assert list(FACEPP_106) == sorted(FACEPP_106)
    known = {1: "contour_left1", 17: "contour_right1", 52: "mouth_left_corner", 97: "right_eyebrow_lower_left_corner"}
    assert {i: FACEPP_106[i] for i in known} == known
    assert {other_side(name) for name in FACEPP_106} == set(FACEPP_106)
    assert FACEPP_106[LAYOUTS["facepp106"].nose_tip] == "nose_tip"


def test_facepp_slots_belong_to_their_groups():
    for name, prefix in (
        ("left_eye", "left_eye_"),
        ("left_brow", "left_eyebrow_"),
        ("right_eye", "right_eye_"),
        ("right_brow", "right_eyebrow_"),
        ("nose", "nose_"),
    ):
        assert all(slot.startswith(prefix) for slot in SLOT_NAMES[group(name)])
    for name in ("lower_lip", "upper_lip"):
        slots = SLOT_NAMES[group(name)]
        assert sum(slot.startswith(f"mouth_{name}_") for slot in slots) == 7
        assert {"mouth_left_corner", "mouth_right_corner"} < set(slots)
    assert {"left_eye_pupil", "right_eye_pupil"} < set(SLOT_NAMES)
    assert not {"left_eye_center", "right_eye_center"} & set(SLOT_NAMES)


def test_mirror_is_an_involution_that_swaps_the_sides():
    np.testing.assert_array_equal(MIRROR[MIRROR], np.arange(63))
    for one, other in (("left_eye", "right_eye"), ("left_brow", "right_brow")):
        assert set(MIRROR[group(one)]) == set(range(63)[group(other)])
    for name in ("nose", "lower_lip", "upper_lip"):
        assert set(MIRROR[group(name)]) == set(range(63)[group(name)])
    assert [SLOT_NAMES[i] for i in MIRROR] == [other_side(name) for name in SLOT_NAMES]


def test_unknown_layout_and_wrong_shape_are_refused():
    with user_error("bad_option", "'dlib68'", "facepp106"):
        landmarks.select(np.zeros((3, 68, 2)), "dlib68")
    with user_error("bad_data", "insightface73", "(frames, 73, 2)", "(3, 106, 2)"):
        landmarks.nose_tip(np.zeros((3, 106, 2)), "insightface73")


def test_pixel_values_are_those_of_the_containing_pixel():
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    points = np.array([[0, 0], [3.9, 7.2], [29.9, 19.9], [-5, 4], [40, 25]])
    expected = frame[[0, 7, 19, 4, 19], [0, 3, 29, 0, 29]]
    np.testing.assert_array_equal(landmarks.pixel_values(frame, points), expected)


@pytest.fixture(scope="module")
def mean_face(tmp_path_factory):
    """(63, 2) and (2,): mean slots and nose tip of twelve real videos, in units of the distance of the pupils."""
    root = youtubepd_layout.real_root(tmp_path_factory)
    source = youtubepd.open(root, youtubepd.Options(), Wanted(frames=False, pixels=False), Problems()).source
    clips = [source[i].landmarks for i in range(0, 72, 6)]
    face = np.mean([clip.mean(axis=0) for clip in clips], axis=0, keepdims=True)
    slots, nose = landmarks.select(face, "facepp106")[0], landmarks.nose_tip(face, "facepp106")[0, 0]
    unit = np.linalg.norm(slots[22] - slots[4])
    return slots / unit, nose / unit


def test_real_groups_lie_where_their_names_say(mean_face):
    slots, nose = mean_face
    x, y = {}, {}
    for name in GROUPS:
        x[name], y[name] = slots[group(name)].mean(axis=0)
    for part in ("eye", "brow"):
        assert x[f"left_{part}"] < nose[0] < x[f"right_{part}"]
        assert y[f"{'left'}_brow"] < y["left_eye"] < nose[1] < y["upper_lip"] < y["lower_lip"]
    assert slots[45, 0] < nose[0] < slots[49, 0]


def test_real_face_is_symmetric_under_mirror(mean_face):
    slots, nose = mean_face
    centred = slots - nose
    np.testing.assert_allclose(centred[MIRROR] * (-1, 1), centred, rtol=0, atol=0.12)
    # No wrong pair is within this tolerance: the slots of one are further apart.
    assert np.abs(centred[MIRROR[::-1]] * (-1, 1) - centred).max() > 0.5


@pytest.mark.parametrize(
    "left_to_right",
    [
        (9, 10, 11, 13, 12),  # lower edge of the left brow
        (9, 14, 15, 17, 16),  # upper edge
        (27, 28, 29, 30, 31),
        (32, 33, 34, 35, 31),
        (1, 2, 0, 3, 5),  # lower lid of the left eye
        (1, 7, 6, 8, 5),  # upper lid
        (19, 20, 18, 21, 23),
        (19, 25, 24, 26, 23),
        (39, 40, 41, 42, 43),  # nostrils
        (45, 46, 47, 48, 49),  # lower lip, inner edge
        (45, 53, 52, 51, 50, 49),  # lower lip, outer edge
        (54, 55, 56, 57),  # upper lip, outer edge
        (54, 62, 61, 60, 59, 58, 57),  # upper lip, inner edge
    ],
)
def test_real_contours_run_from_left_to_right(mean_face, left_to_right):
    assert np.all(np.diff(mean_face[0][list(left_to_right), 0]) > 0)


def test_real_upper_edges_are_above_lower_edges(mean_face):
    y = mean_face[0][:, 1]
    for upper, lower in (
        ((7, 6, 8), (2, 0, 3)),
        ((25, 24, 26), (20, 18, 21)),
        ((14, 15, 17, 16), (10, 11, 13, 12)),
        ((32, 33, 34, 35), (27, 28, 29, 30)),
        ((61, 60, 59), (46, 47, 48)),
        ((46, 47, 48), (53, 51, 50)),
        ((36, 37), (37, 41)),
    ):
        assert np.all(y[list(upper)] < y[list(lower)])
