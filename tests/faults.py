"""Faults of data sets: how to plant each in a sound layout, and what a report must say about it."""

# ruff: noqa: E501  # a table reads best with a fault in each line

import dataclasses
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tramp_jax.data import clips
from tramp_jax.data.problems import ERROR, WARNING

CLIP = "PD0000_clip_smile_P00"  # the first of the PFED5 layout
FRAMES, POINTS = "P00/PD0000_clip", "detect_73_crop/P00/PD0000_clip-P00.npy"
COLOURS = "RGB_1x1_fromLK/P00/PD0000_clip-P00.npy"
TRAIN, TEST = "train_41.csv", "test_41.csv"
VIDEO, LIST = "Landmarks/video1", "Data_Extraction/train.csv"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One way in which a data set can be broken.

    Attributes:
      what: in words.
      dataset: whose layout is broken: a key of ``datasets.READERS``, or "packed".
      make: breaks the layout in a folder.
      kind: the kind of problem that a report must list.
      facts: what the problem's message must name: the file, and the row or the frame.
      severity: the problem's severity.
    """

    what: str
    dataset: str
    make: Callable[[Path], object]
    kind: str
    facts: tuple[str, ...]
    severity: str = ERROR


class Bomb:
    """Unpickling it fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a file of the data set was executed",)


def _delete(name: str):
    return lambda root: (root / name).rename(root / "gone")


def _write(name: str, content: bytes):
    return lambda root: (root / name).write_bytes(content)


def _cut(name: str, share: float):
    def make(root: Path) -> None:
        raw = (root / name).read_bytes()
        (root / name).write_bytes(raw[: int(share * len(raw))])

    return make


def _flip(name: str):
    def make(root: Path) -> None:
        raw = bytearray((root / name).read_bytes())
        raw[len(raw) // 10] ^= 255
        (root / name).write_bytes(raw)

    return make


def _copy(name: str, to: str):
    return lambda root: (root / to).write_bytes((root / name).read_bytes())


def _array(name: str, function: Callable[[np.ndarray], np.ndarray]):
    def make(root: Path) -> None:
        np.save(root / name, function(np.load(root / name)))

    return make


def _nan(points: np.ndarray) -> np.ndarray:
    points = points.astype(np.float32)
    points[4, 5] = np.nan
    return points


def _face(scale: float, around: float, shift: float = 0.0):
    """All landmarks scaled about a point and moved along both axes."""
    return lambda points: (points - around) * scale + around + shift


def _frame(value: float):
    """One frame whose landmarks all coincide."""

    def change(points: np.ndarray) -> np.ndarray:
        points = points.copy()
        points[4] = value
        return points

    return change


def _stray(points: np.ndarray) -> np.ndarray:
    points = points.copy()
    points[4, 5] = 500, -200
    return points


def _swap_frames(name: str, other: str):
    """The images of one clip instead of another's."""

    def make(root: Path) -> None:
        for image in (root / name).iterdir():
            (root / other / image.name).write_bytes(image.read_bytes())

    return make


def _renumber(name: str, to: str):
    return lambda root: (root / name).rename(root / to)


def _outside(root: Path) -> None:
    """A frame of YouTubePD whose landmarks are all outside the crop."""
    path = root / f"{VIDEO}/2.pickle"
    points = pickle.loads(path.read_bytes())
    moved = {key: {"x": point["x"] + 200, "y": point["y"]} for key, point in points.items()}
    path.write_bytes(_pickled(moved))


def _objects(points: np.ndarray) -> np.ndarray:
    array = np.empty(points.shape, object)
    array[:] = Bomb()
    return array


def _row(name: str, number: int, *fields: tuple[int, str]):
    """Replaces fields (counted from 0) of a row (counted from 1)."""

    def make(root: Path) -> None:
        lines = (root / name).read_text().splitlines()
        row = lines[number - 1].split(",")
        for column, text in fields:
            row[column] = text
        lines[number - 1] = ",".join(row)
        (root / name).write_text("\n".join(lines))

    return make


def _lines(name: str, function: Callable[[list[str]], list[str]]):
    def make(root: Path) -> None:
        (root / name).write_text("\n".join(function((root / name).read_text().splitlines())))

    return make


def _lines_of(name: str, function: Callable[[str], str], encoding: str = "utf-8"):
    """Changes the text of a list."""
    return lambda root: (root / name).write_bytes(function((root / name).read_text()).encode(encoding))


def _pickled(content: object) -> bytes:
    return pickle.dumps(content, protocol=4)


def _landmark(name: str, value: object):
    """Sets the tip of the nose in a frame of YouTubePD; None removes it."""

    def make(root: Path) -> None:
        points = pickle.loads((root / name).read_bytes())
        points["nose_tip"] = value
        (root / name).write_bytes(_pickled({key: point for key, point in points.items() if point is not None}))

    return make


def _first(pattern: str, breaking: Callable[[str], Callable[[Path], object]]):
    """Breaks the first file that fits a pattern."""
    return lambda root: breaking(str(sorted(root.glob(pattern))[0].relative_to(root)))(root)


_IMAGE = f"{FRAMES}/img_00003.jpg"
_SMALL = clips.encode_frame(np.zeros((64, 32, 3), np.uint8))
_HEADER = io.BytesIO()
np.lib.format.write_array_header_1_0(_HEADER, {"descr": "<f4", "fortran_order": False, "shape": (1 << 30, 106, 2)})
_declared = _HEADER.getvalue()
_P, _Y = "pfed5", "youtubepd"

FAULTS = (
    Fault("a frame is missing", _P, _delete(_IMAGE), "missing_frames", (FRAMES, "6 images", TRAIN, "row 2", "7")),
    Fault("a frame too many", _P, _copy(_IMAGE, f"{FRAMES}/img_00009.jpg"), "extra_frames", (FRAMES, "8 images", "row 2", "7")),
    Fault("the folder of frames is missing", _P, _delete(FRAMES), "missing_frames", (FRAMES, CLIP)),
    Fault("a truncated image", _P, _cut(_IMAGE, 0.6), "truncated_image", ("img_00003.jpg",)),
    Fault("an image without its last bytes", _P, _cut(_IMAGE, 0.9999), "truncated_image", ("img_00003.jpg",)),
    Fault("an image of zero bytes", _P, _write(_IMAGE, b""), "empty_file", ("img_00003.jpg",)),
    Fault("a file that is not an image", _P, _write(_IMAGE, b"<html>"), "unreadable_image", ("img_00003.jpg",)),
    Fault("an image that cannot be decoded", _P, _write(_IMAGE, b"\xff\xd8\xff\xda\x00\x02\x00\x00\xff\xd9"), "unreadable_image", ("img_00003.jpg",)),
    Fault("an image of the wrong size", _P, _write(_IMAGE, _SMALL), "wrong_image_size", ("img_00003.jpg", "32×64")),
    Fault("the file of landmarks is missing", _P, _delete(POINTS), "missing_landmarks", (POINTS, CLIP)),
    Fault("a file of landmarks of zero bytes", _P, _write(POINTS, b""), "unreadable_array", (POINTS,)),
    Fault("a truncated file of landmarks", _P, _cut(POINTS, 0.5), "unreadable_array", (POINTS,)),
    Fault("an array of objects", _P, _array(POINTS, _objects), "unreadable_array", (POINTS,)),
    Fault("a pickle called .npy", _P, _write(POINTS, _pickled(Bomb())), "unreadable_array", (POINTS,)),
    Fault("landmarks that are text", _P, _array(POINTS, lambda x: x.astype(str)), "wrong_shape", (POINTS,)),
    Fault("landmarks of too few frames", _P, _array(POINTS, lambda x: x[:-1]), "wrong_number_of_landmarks", (POINTS, "6 frames", "row 2", "7")),
    Fault("landmarks of another detector", _P, _array(POINTS, lambda x: x[:, :68]), "wrong_shape", (POINTS, "(7, 68, 2)")),
    Fault("landmarks that are NaN", _P, _array(POINTS, _nan), "landmarks_not_finite", (POINTS, "1 of 7 frames", "frame 5")),
    Fault("landmarks far outside the crop", _P, _array(POINTS, lambda x: x + 1000), "landmarks_out_of_crop", (POINTS,)),
    Fault("landmarks scaled to 0-1", _P, _array(POINTS, lambda x: x / 256), "landmarks_out_of_crop", (POINTS,)),
    Fault("the file of colours is missing", _P, _delete(COLOURS), "missing_colours", (COLOURS, CLIP)),
    Fault("colours above 255", _P, _array(COLOURS, lambda x: x.astype(int) + 300), "colours_out_of_range", (COLOURS, "frame 1")),
    Fault("colours of too few frames", _P, _array(COLOURS, lambda x: x[:-2]), "wrong_number_of_colours", (COLOURS, "5 frames")),
    Fault("a score that is not a number", _P, _row(TRAIN, 3, (1, "high")), "bad_score", (TRAIN, "row 3", "'high'")),
    Fault("a score out of range", _P, _row(TRAIN, 3, (1, "4.5")), "bad_score", (TRAIN, "row 3", "'4.5'")),
    Fault("no frames according to the list", _P, _row(TRAIN, 3, (2, "0")), "bad_frame_count", (TRAIN, "row 3", "'0'")),
    Fault("an unknown expression", _P, _row(TRAIN, 3, (4, "7")), "bad_expression", (TRAIN, "row 3", "'7'")),
    Fault("too few columns", _P, _lines(TRAIN, lambda x: [*x, "PD0009_clip_P09,1,7"]), "missing_column", (TRAIN, "row 5", "3 columns")),
    Fault("a blank in an id", _P, _row(TRAIN, 3, (0, "PD0001 clip_P01")), "bad_id", (TRAIN, "row 3")),
    Fault("an id without a patient", _P, _row(TRAIN, 3, (0, "PD0001clipP01")), "bad_id", (TRAIN, "row 3")),
    Fault("an id that leaves the folder", _P, _row(TRAIN, 3, (0, "../../etc_clip_P01")), "bad_id", (TRAIN, "row 3")),
    Fault("a clip listed twice", _P, _lines(TRAIN, lambda x: [*x, x[1]]), "duplicate_clip", (TRAIN, "row 5", "row 2")),
    Fault("one clip under two names", _P, _copy(POINTS, "detect_73_crop/P02/PD0002_clip-P02.npy"), "duplicate_content", (TRAIN, "row 4", "row 2")),
    Fault("a subject in train and test", _P, _lines(TEST, lambda x: [*x, "PD0009_clip_P01,1,7,25,1"]), "subject_in_both_lists", (TEST, "row 3", TRAIN)),
    Fault("a list is missing", _P, _delete(TEST), "missing_list", (TEST, "PFED5_test.csv")),
    Fault("a list is empty", _P, _write(TEST, b""), "empty_list", (TEST,)),
    Fault("a list that is not a table", _P, _write(TEST, b"x" * 200_000), "unreadable_table", (TEST,)),
    Fault("two lists to choose from", _P, _copy(TEST, "PFED5_test.csv"), "ambiguous_list", (TEST, "PFED5_test.csv")),
    Fault("an unclear column of expressions", _P, _lines(TEST, lambda x: ["id,score,frames,a,b", "PD0003_clip_P03,1,7,3,1"]), "unclear_column", (TEST,)),
    Fault("the folder of landmarks is missing", _P, _delete("detect_73_crop"), "missing_folder", ("detect_73_crop",)),
    Fault("a part without an expression", _P, _row(TEST, 2, (4, "2")), "missing_expression", ("smile",)),
    Fault("a part without a score (a warning)", _P, _row(TEST, 2, (1, "0.25")), "missing_class", ("smile", "0.25"), WARNING),
    Fault("landmarks wholly beside the crop", _P, _array(POINTS, _face(0.5, 128, 210)), "landmarks_out_of_crop", (POINTS, "7 frames", "frame 1")),
    Fault("landmarks shifted by 150 pixels", _P, _array(POINTS, _face(1, 0, 150)), "landmarks_out_of_crop", (POINTS, "7 frames")),
    Fault("landmarks of a crop of 112 pixels (a warning)", _P, _array(POINTS, _face(112 / 256, 0)), "doubtful_landmarks", (TRAIN, "row 2"), WARNING),
    Fault("mirrored landmarks (a warning)", _P, _array(POINTS, lambda points: np.abs((255, 0) - points)), "doubtful_landmarks", (TRAIN, "row 2", "mirrored"), WARNING),
    Fault("landmarks of a tiny face (a warning)", _P, _array(POINTS, _face(0.4, 128)), "doubtful_landmarks", (TRAIN, "row 2", "256"), WARNING),
    Fault("one landmark far from all others", _P, _array(POINTS, _stray), "stray_landmark", (POINTS, "frame 5", "point 5", "(500, -200)")),
    Fault("a frame of landmarks that are all zero", _P, _array(POINTS, _frame(0)), "undetected_face", (POINTS, "frame 5")),
    Fault("a frame of landmarks at one place", _P, _array(POINTS, _frame(99)), "undetected_face", (POINTS, "frame 5")),
    Fault("a frame is missing and another too many", _P, _renumber(_IMAGE, f"{FRAMES}/img_00009.jpg"), "gap_in_frames", (FRAMES, CLIP, "3, 8")),
    Fault("the frames of one person under another", _P, _swap_frames(FRAMES, "P02/PD0002_clip"), "duplicate_content", (TRAIN, "row 4", "row 2")),
    Fault("a hostile pickle", _Y, _write(f"{VIDEO}/2.pickle", _pickled(Bomb())), "unreadable_pickle", (f"{VIDEO}/2.pickle",)),
    Fault("a frame of zero bytes", _Y, _write(f"{VIDEO}/2.pickle", b""), "empty_file", (f"{VIDEO}/2.pickle",)),
    Fault("an oversized frame", _Y, _write(f"{VIDEO}/2.pickle", bytes(100_000)), "oversized_file", (f"{VIDEO}/2.pickle",)),
    Fault("a frame beside the crop", _Y, _outside, "landmarks_out_of_crop", (f"{VIDEO}/2.pickle", "frame 2")),
    Fault("a missing landmark", _Y, _landmark(f"{VIDEO}/2.pickle", None), "missing_landmarks", (f"{VIDEO}/2.pickle", "['nose_tip']")),
    Fault("a landmark out of the crop", _Y, _landmark(f"{VIDEO}/2.pickle", {"x": 9999, "y": 1}), "landmarks_out_of_crop", (f"{VIDEO}/2.pickle",)),
    Fault("a landmark that is not a number", _Y, _landmark(f"{VIDEO}/2.pickle", {"x": "1", "y": 1}), "landmarks_out_of_crop", (f"{VIDEO}/2.pickle",)),
    Fault("too many frames missing", _Y, _delete(f"{VIDEO}/2.pickle"), "missing_frames", (VIDEO, "1", "5 frames")),
    Fault("no folder of the video", _Y, _delete(VIDEO), "missing_frames", (VIDEO, LIST, "line 1")),
    Fault("no label", _Y, _delete(f"{VIDEO}/multi_label.txt"), "missing_label", (f"{VIDEO}/multi_label.txt",)),
    Fault("a label against the list", _Y, _write(f"{VIDEO}/multi_label.txt", b"9"), "contradicting_label", (f"{VIDEO}/multi_label.txt", "'9'", "line 1", "4")),
    Fault("a score above 10", _Y, _lines(LIST, lambda x: [*x, "video7_final.mp4 11"]), "bad_score", (LIST, "line 4")),
    Fault("a malformed line", _Y, _lines(LIST, lambda x: [*x, "my video.mp4 1"]), "bad_id", (LIST, "line 4")),
    Fault("a video in both lists", _Y, _lines("Data_Extraction/test.csv", lambda x: [*x, "video1_final.mp4 4"]), "duplicate_clip", ("test.csv", "line 2", LIST)),
    Fault("a truncated image", "folder", _first("clips/*/*/**/*.jpg", lambda name: _cut(name, 0.5)), "truncated_image", ("clips/s000/0/",)),
    Fault("an image of zero bytes", "dfew", _write("frames/00001/00001_00002.jpg", b""), "empty_file", ("00001_00002.jpg",)),
    Fault("landmarks far outside the crop", "dfew", _array("landmarks/00001.npy", lambda x: x + 5000), "landmarks_out_of_crop", ("landmarks/00001.npy",)),
    Fault("a truncated image", "neuroface", _first("frames/*/2.jpg", lambda name: _cut(name, 0.5)), "truncated_image", ("N002_02_NSM_OPEN_color_1/2.jpg",)),
    Fault("landmarks that are NaN", "neuroface", _first("landmarks/*.npy", lambda name: _array(name, _nan)), "landmarks_not_finite", ("landmarks/N002_02_NSM_OPEN_color_1.npy",)),
    Fault("a frame of landmarks that are all zero", "neuroface", _first("landmarks/*.npy", lambda name: _array(name, _frame(0))), "undetected_face", ("landmarks/N002_02_NSM_OPEN_color_1.npy", "frame 5")),
    Fault("landmarks shifted by 150 pixels", "neuroface", _first("landmarks/*.npy", lambda name: _array(name, _face(1, 0, 150))), "landmarks_out_of_crop", ("landmarks/N002_02_NSM_OPEN_color_1.npy",)),
    Fault("one landmark far from all others", "neuroface", _first("landmarks/*.npy", lambda name: _array(name, _stray)), "stray_landmark", ("landmarks/N002_02_NSM_OPEN_color_1.npy", "frame 5")),
    Fault("a number left out among the frames", "neuroface", _first("frames/*/3.jpg", lambda name: _renumber(name, name.replace("3.jpg", "12.jpg"))), "gap_in_frames", ("frames/N002_02_NSM_OPEN_color_1",)),
    Fault("an overall score above the maximum", "neuroface", _row("ratings.csv", 2, (3, "99")), "malformed_row", ("ratings.csv", "row 2", "99")),
    Fault("landmarks shifted by 150 pixels", "folder", _first("clips/*/*/landmarks.npy", lambda name: _array(name, _face(1, 0, 150))), "landmarks_out_of_crop", ("clips/s000/0/landmarks.npy",)),
    Fault("a number left out among the frames", "folder", _renumber("clips/s000/0/000003.jpg", "clips/s000/0/000009.jpg"), "gap_in_frames", ("clips/s000/0",)),
    Fault("a face not found (a warning)", "dfew", _array("landmarks/00001.npy", _frame(0)), "undetected_face", ("landmarks/00001.npy", "1", "5 frames"), WARNING),
    Fault("a number left out among the frames (a warning)", "dfew", _renumber("frames/00001/00001_00003.jpg", "frames/00001/00001_00009.jpg"), "gap_in_frames", ("frames/00001",), WARNING),
    Fault("no landmarks of a clip (a warning)", "dfew", _delete("landmarks/00001.npy"), "undetected_face", ("landmarks/00001.npy", "00001"), WARNING),
    Fault("a list in Windows-1252", "folder", _lines_of("clips.csv", lambda x: x.replace("s000,", "M\u00fcller,"), "cp1252"), "unreadable_table", ("clips.csv", "row 2", "UTF-8")),
    Fault("a name that has lost letters", "folder", _lines_of("clips.csv", lambda x: x.replace("s000,", "M\ufffdller,")), "unreadable_table", ("clips.csv", "row 2")),
    Fault("a quotation mark that is not closed", "folder", _lines_of("clips.csv", lambda x: x.replace("s000,", '"s000,')), "unreadable_table", ("clips.csv", "row 2", "quotation mark")),
    Fault("a list with more cells than a list can have", "folder", _write("clips.csv", b",,,,,,,,,\n" * 250_000), "oversized_file", ("clips.csv", "cells")),
    Fault("a person in two spellings", "folder", _lines_of("clips.csv", lambda x: x.replace(",s001,", ",S_0,").replace(",s000,", ",s00,")), "similar_names", ("clips.csv", "row 2", "row 3", "'s00'", "'S_0'")),
    Fault("two visits of one person as two people (a warning)", "folder", _lines_of("clips.csv", lambda x: x.replace(",s001,", ",s000_V2,").replace(",s000,", ",s000_V1,")), "similar_names", ("'s000_V1'", "'s000_V2'"), WARNING),
    Fault("a column like a split under another name (a warning)", "folder", _lines("clips.csv", lambda x: [f"{row},{part}" for row, part in zip(x, ("set", "train", "train", "test"), strict=True)]), "ignored_column", ("clips.csv", "'set'"), WARNING),
    Fault("a number that a spreadsheet rounded", "folder", _row("clips.csv", 3, (1, "1.23457E+11")), "bad_id", ("clips.csv", "row 3", "1.23457E+11")),
    Fault("99 for a missing score", "folder", _lines("clips.csv", lambda x: [x[0], *(f"{row.rpartition(',')[0]},{mark}" for row, mark in zip(x[1:], (0, 99, 3), strict=True))]), "malformed_row", ("clips.csv", "row 3", "score is 99")),
    Fault("a missing rating (a warning)", "folder", _lines("clips.csv", lambda x: [f"{row},{mark}" for row, mark in zip(x, ("speed", 1, "NA", 3), strict=True)]), "missing_rating", ("clips.csv", "row 3", "speed", "'NA'"), WARNING),
    Fault("a description that is not JSON", "folder", _write("clips/s000/0/clip.json", b"[" * 100_000), "bad_description", ("clips/s000/0/clip.json",)),
    Fault("an array that declares gigabytes", "folder", _write("clips/s000/0/landmarks.npy", _declared), "unreadable_array", ("clips/s000/0/landmarks.npy", "row 2")),
    Fault("a damaged shard", "packed", _flip("clips-00000-of-00002.array_record"), "damaged_shard", ("clips-00000-of-00002.array_record",)),
    Fault("a record in a damaged shard", "packed", _flip("clips-00000-of-00002.array_record"), "unreadable_record", ("clips-00000-of-00002.array_record", "record 0")),
    Fault("a truncated shard", "packed", _cut("clips-00001-of-00002.array_record", 0.5), "damaged_shard", ("clips-00001-of-00002.array_record",)),
    Fault("a missing shard", "packed", _delete("clips-00001-of-00002.array_record"), "missing_shard", ("clips-00001-of-00002.array_record",)),
    Fault("shards exchanged", "packed", _copy("clips-00001-of-00002.array_record", "clips-00000-of-00002.array_record"), "unreadable_record", ("clips-00000-of-00002.array_record", "record 0")),
)  # fmt: skip
