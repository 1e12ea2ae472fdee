"""Landmark sources: MediaPipe on real faces, Lucas-Kanade on synthetic faces with known points, tracks, InsightFace."""

import hashlib
import itertools
import re

import cv2
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tests import preprocess_inputs
from tests.preprocess_inputs import VIDEOS, encode, moved, photograph, real_video
from tests.raises import user_error
from tramp_jax.data import landmarks
from tramp_jax.data.landmarks import GROUP_SIZE, GROUPS, LAYOUTS, MIRROR
from tramp_jax.preprocess import SOURCES, SourceOptions, open_landmark_source, preprocess_video
from tramp_jax.preprocess.faces import Face, LandmarkSource, enclosing, overlap
from tramp_jax.preprocess.sources.blazeface import Detector
from tramp_jax.preprocess.sources.lucas_kanade import LucasKanade, step
from tramp_jax.preprocess.sources.mediapipe import DETECTOR, MODELS
from tramp_jax.preprocess.sources.tracks import Tracks, write_queries
from tramp_jax.preprocess.video import open_frames
from tramp_jax.synthetic.faces import SyntheticFaces

mediapipe = preprocess_inputs.mediapipe  # the fixture


def eye_distance(points: np.ndarray) -> float:
    """Distance between the outer corners of the eyes in points (64, 2)."""
    return float(np.linalg.norm(points[1] - points[23]))


# MediaPipe


@pytest.mark.parametrize(
    ("video", "frames", "with_face"),
    [
        ("single_face.mp4", 72, range(72)),
        ("WolfgangLanger_Pexels.mp4", 472, range(472)),
        ("no_face.mp4", 95, range(0)),
        ("face_noface.mov", 169, range(72)),
    ],
)
def test_faces_are_found_in_real_videos(mediapipe, video, frames, with_face):
    images = (image for _, image in open_frames(real_video(video)))
    found = list(mediapipe(images))
    assert len(found) == frames
    assert [i for i, faces in enumerate(found) if faces] == list(with_face)
    assert all(len(faces) <= 1 for faces in found)


def test_small_faces_are_found(mediapipe):
    """Five people, each a tenth as wide as the picture. In the whole picture, two boxes between people are found."""
    ((_, image),) = open_frames(real_video("multi_face.jpg"))
    boxes = [
        (203, 71, 310, 178),
        (306, 257, 410, 361),
        (434, 227, 519, 312),
        (534, 335, 629, 431),
        (683, 318, 793, 428),
    ]
    found = sorted(Detector(MODELS / DETECTOR)(image), key=lambda detection: detection.box[0])
    np.testing.assert_allclose([each.box for each in found], boxes, atol=10)  # read off the picture
    # The mesh follows four of them and leaves out the smallest.
    faces = sorted(next(iter(mediapipe([image]))), key=lambda face: face.box[0])
    assert len(faces) == 4
    for face, box in zip(faces, np.delete(boxes, 2, axis=0), strict=True):
        assert (face.box[:2] + face.box[2:] > 2 * box[:2]).all()
        assert (face.box[:2] + face.box[2:] < 2 * box[2:]).all()
        assert overlap(face.box, box) > 0.5


def test_landmarks_move_with_the_face(mediapipe):
    """A photograph shifted by known amounts: the points follow to within a small part of the eye distance."""
    shifts = [(3.5 * t, 20 * np.sin(t / 3)) for t in range(24)]
    faces = list(mediapipe(moved(photograph(), shifts)))
    assert [len(found) for found in faces] == [1] * 24
    points = np.stack([found[0].points for found in faces])
    error = np.linalg.norm(points - points[0] - np.array(shifts)[:, None], axis=-1) / eye_distance(points[0])
    assert error.mean() < 0.02
    assert error.max() < 0.08


def test_a_larger_picture_gives_larger_landmarks_and_depths(mediapipe):
    picture = photograph()
    ((small,), (large,)) = (next(iter(mediapipe([image]))) for image in (picture, picture.repeat(2, 0).repeat(2, 1)))
    error = np.abs(large.points - 2 * small.points).mean() / eye_distance(large.points)
    assert error < 0.01
    np.testing.assert_allclose(large.depth, 2 * small.depth, atol=0.02 * eye_distance(large.points))


def test_the_points_are_in_the_order_of_the_slots(mediapipe):
    ((face,),) = mediapipe([photograph()])
    points = landmarks.select(face.points[None], "points63")[0]
    centres = {name: points[i * GROUP_SIZE : (i + 1) * GROUP_SIZE].mean(axis=0) for i, name in enumerate(GROUPS)}
    for part in ("eye", "brow"):
        assert centres[f"left_{part}"][0] < centres["nose"][0] < centres[f"right_{part}"][0]
    for side in ("left", "right"):
        above = [
            centres[f"{side}_brow"],
            centres[f"{side}_eye"],
            centres["nose"],
            centres["upper_lip"],
            centres["lower_lip"],
        ]
        assert (np.diff([y for _, y in above]) > 0).all()
    named = dict(zip(landmarks.SLOT_NAMES, points, strict=True))
    for eye in ("left_eye", "right_eye"):
        assert named[f"{eye}_top"][1] < named[f"{eye}_pupil"][1] < named[f"{eye}_bottom"][1]
        assert named[f"{eye}_left_corner"][0] < named[f"{eye}_pupil"][0] < named[f"{eye}_right_corner"][0]
        assert named[f"{eye}_upper_left_quarter"][0] < named[f"{eye}_upper_right_quarter"][0]
        assert named[f"{eye}_lower_left_quarter"][0] < named[f"{eye}_lower_right_quarter"][0]
        assert named[f"{eye}_upper_left_quarter"][1] < named[f"{eye}_lower_left_quarter"][1]
    assert named["mouth_left_corner"][0] < named["mouth_right_corner"][0]
    closed = named["mouth_lower_lip_top"][1] - named["mouth_upper_lip_bottom"][1]
    assert -1 < closed < named["mouth_lower_lip_left_contour3"][1] - named["mouth_upper_lip_bottom"][1]
    assert abs(face.points[63, 0] - centres["nose"][0]) < 0.2 * eye_distance(points)


def test_a_mirrored_face_has_mirrored_points(mediapipe):
    picture = photograph()
    ((face,), (mirrored,)) = (next(iter(mediapipe([p]))) for p in (picture, np.ascontiguousarray(picture[:, ::-1])))
    points, back = (landmarks.select(each.points[None], "points63")[0] for each in (face, mirrored))
    back = back[MIRROR]
    back[:, 0] = picture.shape[1] - back[:, 0]
    error = np.linalg.norm(points - back, axis=1) / eye_distance(points)
    assert error.max() < 0.03


@pytest.mark.parametrize("index", [0, 7, 14])
def test_each_point_of_a_synthetic_face_matches_its_slot(mediapipe, index):
    """With each group overlaid on the true one, every point pairs up with the true point of its slot."""
    source = SyntheticFaces(4, 1, with_frames=False)
    scene = source.scene(index)
    painter = source.painter(index, scene)
    true = landmarks.select(scene[1][:, :106], "insightface106")
    times = (0, 20)
    for faces, t in zip(mediapipe(map(painter.paint, times)), times, strict=True):
        points = landmarks.select(faces[0].points[None], "points63")[0]
        nose = landmarks.nose_tip(faces[0].points[None], "points63") - landmarks.nose_tip(
            scene[1][[t], :106], "insightface106"
        )
        assert np.linalg.norm(nose) / eye_distance(true[0]) < 0.08
        # A wide limit: the face is drawn, and this detector places points slightly differently.
        assert np.linalg.norm(points - true[t], axis=1).mean() / eye_distance(true[0]) < 0.08
        for i, name in enumerate(GROUPS):
            group = slice(i * GROUP_SIZE, (i + 1) * GROUP_SIZE)
            distance = np.linalg.norm(overlaid(points[group])[:, None] - overlaid(true[t, group]), axis=-1)
            _, partner = linear_sum_assignment(distance**2)
            np.testing.assert_array_equal(partner, np.arange(GROUP_SIZE), err_msg=name)


def overlaid(points: np.ndarray) -> np.ndarray:
    """Normalises points (n, 2) to mean 0 and standard deviation 1 along each axis."""
    return (points - points.mean(axis=0)) / points.std(axis=0)


def test_missing_models_are_named(tmp_path):
    with user_error("missing_file", tmp_path / DETECTOR, "--models-dir"):
        open_landmark_source("mediapipe", SourceOptions(models_dir=tmp_path))
    (tmp_path / DETECTOR).write_bytes(b"no model")
    (tmp_path / "face_landmark.tflite").write_bytes(b"no model")
    pytest.importorskip("ai_edge_litert", reason='LiteRT is not installed: pip install "tramp_jax[mediapipe]"')
    with user_error("bad_model", tmp_path / DETECTOR, "TensorFlow Lite"):
        open_landmark_source("mediapipe", SourceOptions(models_dir=tmp_path))
    with user_error("bad_option", "'dlib'", *SOURCES):
        open_landmark_source("dlib", SourceOptions())


# Lucas-Kanade


class Oracle(LandmarkSource):
    """Returns the true points of one frame."""

    name, layout = "oracle", "insightface106"

    def __init__(self, points):
        self.points, self.calls, self.seconds = points.astype(np.float32), 0, {}

    def __call__(self, frames):
        for _ in frames:
            self.calls += 1
            yield [Face(enclosing(self.points), 1.0, self.points)]


@pytest.mark.parametrize("index", [1, 2])  # a smile and a frown
def test_points_are_carried_along_a_synthetic_face(index):
    source = SyntheticFaces(2, 1, with_frames=False)
    scene = source.scene(index)
    painter = source.painter(index, scene)
    true = scene[1][:, :106]
    oracle = Oracle(true[0])
    found = list(LucasKanade(oracle)(painter.paint(t) for t in range(len(true))))
    assert oracle.calls == 1  # only for the first frame
    slots = LAYOUTS["insightface106"].slots
    error = np.linalg.norm([faces[0].points - true[t] for t, faces in enumerate(found)], axis=-1)[:, slots]
    motion = np.linalg.norm(true - true[0], axis=-1)[:, slots]
    assert error.mean() < 1.8  # pixels of a face of 256
    assert error.mean() < 0.6 * motion.mean()


def test_lost_points_move_with_the_others():
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (240, 240)).astype(np.uint8)
    before = np.kron(texture[:60, :60], np.ones((4, 4), np.uint8))
    after = np.roll(before, (3, 5), axis=(0, 1))
    after[150:, 150:] = 128  # a hand covers the corner
    points = np.stack(np.meshgrid(np.arange(40, 220, 20.0), np.arange(40, 220, 20.0)), axis=-1).reshape(-1, 2)
    points = points.astype(np.float32)
    moved_face = step(before, after, Face(np.array([30, 30, 220, 220], np.float32), 1.0, points))
    assert moved_face is not None
    np.testing.assert_allclose(moved_face.points, points + np.array([5, 3]), atol=0.6)
    np.testing.assert_allclose(moved_face.box, (35, 33, 225, 223), atol=2)
    assert moved_face.score < 1


def test_a_lost_face_is_detected_again():
    picture = photograph()
    oracle = Oracle(np.random.default_rng(0).uniform((180, 100), (320, 260), (106, 2)))
    blank = np.full_like(picture, 90)
    noise = np.random.default_rng(1).integers(0, 255, picture.shape).astype(np.uint8)
    found = list(LucasKanade(oracle)([picture, picture, noise, blank, picture, picture]))
    assert oracle.calls > 1
    assert all(found)


# Tracks


def tracks(count=20, points=64):
    rng = np.random.default_rng(3)
    return (rng.uniform(50, 200, (1, points, 2)) + np.arange(count)[:, None, None]).astype(np.float32)  # (T, N, 2)


def blank_frames(count, size=(320, 240)):
    return [np.zeros((size[1], size[0], 3), np.uint8)] * count


def test_tapir_and_cotracker_layouts_give_the_same_points(tmp_path):
    points, shown = tracks(), np.ones((20, 64), bool)
    shown[5:8, 10] = False
    np.savez(tmp_path / "tapir.npz", tracks=points.swapaxes(0, 1), visibles=shown.T)
    np.savez(tmp_path / "occluded.npz", tracks=points.swapaxes(0, 1)[None], occluded=~shown.T[None])
    np.savez(tmp_path / "cotracker.npz", pred_tracks=points[None], pred_visibility=shown[None])
    np.savez(tmp_path / "soft.npz", tracks=points[None], visibility=np.where(shown, 0.9, 0.2)[None, ..., None])
    for name in ("tapir", "occluded", "cotracker", "soft"):
        source = Tracks(tmp_path / f"{name}.npz")
        assert source.layout == "points63"
        found = [faces[0] for faces in source(blank_frames(20))]
        np.testing.assert_allclose([face.points for face in found], points, atol=1e-4, err_msg=name)
        assert [face.score for face in found][4:9] == [1, *[63 / 64] * 3, 1]
    np.save(tmp_path / "plain.npy", points)
    assert len(list(Tracks(tmp_path / "plain.npy")(blank_frames(20)))) == 20


@pytest.mark.parametrize("batch", [False, True])
def test_the_name_decides_if_there_are_as_many_frames_as_points(tmp_path, batch):
    points, shown = tracks(64), np.ones((64, 64), bool)
    shown[5, :3] = False
    arrays = {"pred_tracks": points, "pred_visibility": shown}
    np.savez(tmp_path / "a.npz", **{name: array[None] if batch else array for name, array in arrays.items()})
    found = [faces[0] for faces in Tracks(tmp_path / "a.npz")(blank_frames(64))]
    np.testing.assert_allclose([face.points for face in found], points, atol=1e-4)
    assert found[5].score == 61 / 64


def test_hidden_points_are_interpolated_and_hidden_faces_skipped(tmp_path):
    points, shown = tracks(), np.ones((20, 64), bool)
    shown[5:8, 10] = False
    shown[12, :40] = False
    wrong = points.copy()
    wrong[~shown] = 999  # a tracker's guess at hidden points is not used
    np.savez(tmp_path / "a.npz", tracks=wrong[None], visibility=shown[None])
    found = list(Tracks(tmp_path / "a.npz")(blank_frames(20)))
    assert [i for i, faces in enumerate(found) if not faces] == [12]
    np.testing.assert_allclose(found[6][0].points, points[6], atol=1e-3)  # the points move at constant speed


def test_resized_coordinates_are_scaled_to_the_video(tmp_path):
    np.save(tmp_path / "a.npy", tracks())
    found = next(iter(Tracks(tmp_path / "a.npy", size=(256, 128))(blank_frames(20, (1280, 512)))))
    np.testing.assert_allclose(found[0].points, tracks()[0] * (5, 4), rtol=1e-5)


def test_the_number_of_points_identifies_an_insightface_layout(tmp_path):
    for count, layout in ((106, "insightface106"), (73, "insightface73"), (71, "insightface71")):
        np.save(tmp_path / "a.npy", tracks(points=count)[None])
        assert Tracks(tmp_path / "a.npy").layout == layout


@pytest.mark.parametrize(
    ("arrays", "kind", "facts"),
    [
        ({"tracks": np.zeros((1, 20, 63, 2))}, "wrong_shape", ["(1, 20, 63, 2)", "nose"]),
        ({"tracks": np.zeros((20, 50, 2))}, "wrong_shape", ["(20, 50, 2)"]),
        ({"tracks": np.zeros((2, 20, 64, 2))}, "wrong_shape", ["(2, 20, 64, 2)"]),
        ({"tracks": np.zeros((64, 71, 2))}, "wrong_shape", ["(64, 71, 2)", "pred_tracks"]),
        ({"tracks": np.zeros((64, 64, 2))}, "wrong_shape", ["(64, 64, 2)", "pred_tracks"]),
        ({"tracks": np.zeros((1, 64, 64, 2))}, "wrong_shape", ["(1, 64, 64, 2)", "pred_tracks"]),
        ({"queries": np.zeros((64, 3))}, "bad_tracks", ["queries", "tracks"]),
        (
            {"tracks": np.zeros((1, 20, 64, 2)), "visibility": np.ones((1, 19, 64), bool)},
            "wrong_shape",
            ["visibility", "(1, 19, 64)"],
        ),
        (
            {"tracks": np.zeros((64, 20, 2)), "occlusion": np.full((64, 20), -7.5)},
            "bad_tracks",
            ["occlusion", "0 to 1"],
        ),
        ({"tracks": np.zeros((1, 20, 64, 2)), "visibility": np.zeros((1, 20, 64), bool)}, "bad_tracks", ["[0, 1, 2"]),
        ({"tracks": np.full((1, 20, 64, 2), np.nan)}, "bad_tracks", ["[0, 1, 2"]),
        ({"tracks": np.array(["a"], object)}, "unreadable_array", []),
    ],
)
def test_tracks_with_another_layout_are_refused(tmp_path, arrays, kind, facts):
    np.savez(tmp_path / "a.npz", **arrays)
    with user_error(kind, tmp_path / "a.npz", *facts):
        Tracks(tmp_path / "a.npz")


def test_tracks_of_another_video_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", tracks(20))
    for count in (19, 21):
        with user_error("wrong_frame_count", tmp_path / "a.npy", 20, count):
            list(Tracks(tmp_path / "a.npy")(blank_frames(count)))
    with user_error("missing_file", tmp_path / "b.npy"):
        Tracks(tmp_path / "b.npy")
    (tmp_path / "c.npz").write_bytes(b"nothing")
    with user_error("unreadable_array", tmp_path / "c.npz"):
        Tracks(tmp_path / "c.npz")
    with user_error("missing_option", "--tracks"):
        open_landmark_source("tracks", SourceOptions())


def test_query_points_have_each_trackers_order(tmp_path):
    points = tracks()[0]
    write_queries(tmp_path / "q.npz", points, 7, (320, 240))
    saved = np.load(tmp_path / "q.npz")
    np.testing.assert_array_equal(saved["tapir"], np.column_stack([np.full(64, 7), points[:, 1], points[:, 0]]))
    np.testing.assert_array_equal(saved["cotracker"][0], np.column_stack([np.full(64, 7), points]))
    np.testing.assert_array_equal(saved["size"], (320, 240))


# Faces that are not upright


TURNED = {"on its left side": 1, "upside down": 2, "on its right side": 3}


@pytest.mark.parametrize("turn", TURNED)
@pytest.mark.parametrize("person", ["photograph", "single_face.mp4", "WolfgangLanger_Pexels.mp4"])
def test_a_sideways_or_upside_down_face_is_refused(mediapipe, tmp_path, turn, person):
    pictures = pictures_of(person)
    path = encode(tmp_path / "a.mp4", [np.rot90(picture, TURNED[turn]) for picture in pictures])
    with user_error("not_upright", path, "upside down" if TURNED[turn] == 2 else "sideways", "ffmpeg") as caught:
        preprocess_video(path, mediapipe)
    # The suggested command gives the clip of the upright video.
    cure = re.search(r"-vf (\S+)", str(caught.value))[1]
    back = {"transpose=1": -1, "transpose=2": 1, "hflip,vflip": 2}[cure]
    again = encode(tmp_path / "b.mp4", [np.rot90(np.rot90(p, TURNED[turn]), back) for p in pictures])
    assert not any("tilted" in warning for warning in preprocess_video(again, mediapipe).warnings)


@pytest.mark.parametrize("person", ["photograph", "single_face.mp4", "WolfgangLanger_Pexels.mp4"])
@pytest.mark.parametrize("degrees", [-45, -20, 20, 45])
def test_a_head_tilted_by_more_than_35_degrees_gives_a_warning(mediapipe, tmp_path, person, degrees):
    pictures = pictures_of(person)
    height, width = pictures[0].shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.8)
    path = encode(tmp_path / "a.mp4", [cv2.warpAffine(picture, turn, (width, height)) for picture in pictures])
    made = preprocess_video(path, mediapipe)
    assert landmarks.tilt(made.clip.landmarks, "points63") == pytest.approx(degrees, abs=12)
    assert any("tilted" in warning for warning in made.warnings) == (abs(degrees) > 35)


@pytest.mark.parametrize("name", ["hflip_flag.mp4", "sideways_no_flag.mp4", "upside_down_no_flag.mp4"])
def test_reported_videos_of_turned_faces(mediapipe, name):
    path = VIDEOS.with_name("cases") / "not_upright" / name
    if not path.is_file():
        pytest.skip("no cases there")
    if name == "hflip_flag.mp4":
        assert not preprocess_video(path, mediapipe).warnings
        return
    with user_error("not_upright", path, "ffmpeg"):
        preprocess_video(path, mediapipe)


def pictures_of(person):
    """Twelve frames of a person, all of the same even size."""
    if person == "photograph":
        return moved(photograph(), [(2.0 * t, 0) for t in range(12)])
    return [image for _, image in itertools.islice(open_frames(real_video(person)), 0, 72, 6)]


def test_the_notice_lists_the_models_with_their_checksums():
    notice = (MODELS / "NOTICE").read_text()
    assert "Apache License" in (MODELS / "LICENSE").read_text()
    for file in MODELS.glob("*.tflite"):
        assert file.name in notice
        assert hashlib.sha256(file.read_bytes()).hexdigest() in notice
    assert len(list(MODELS.glob("*.tflite"))) == 2
