"""Turns videos into clips from end to end, also by the command."""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests import landmark_table_files, preprocess_inputs
from tests.conftest import ROOT
from tests.landmark_table_files import drawn68
from tests.preprocess_inputs import (
    SLOTS,
    SquareSource,
    encode,
    grid,
    moved,
    photograph,
    real_video,
    square,
    write_images,
    write_video,
)
from tests.raises import user_error
from tramp_jax import cli, shards
from tramp_jax.cli import preprocess as cli_preprocess
from tramp_jax.cli.exit_codes import EXIT_INTERRUPTED
from tramp_jax.data import clip_folder, head_motion, landmarks
from tramp_jax.data.clip_files import image_files
from tramp_jax.data.clips import ClipInfo, decode_frame
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers import folder
from tramp_jax.data.source import Wanted
from tramp_jax.files import hidden, locked
from tramp_jax.preprocess import (
    SOURCES,
    PreprocessOptions,
    batch,
    expand_input,
    preprocess_video,
    tracking,
)
from tramp_jax.preprocess.clip import _FirstPass
from tramp_jax.preprocess.video import open_frames


def _opened(root):
    """The clips of a folder as training reads them."""
    return folder.open(root, folder.Options(), Wanted(), Problems()).source


mediapipe = preprocess_inputs.mediapipe  # the fixture


@pytest.fixture(scope="module")
def portrait(tmp_path_factory):
    """A video of 12 frames: a photograph that moves 4 pixels to the right per frame."""
    frames = moved(photograph(), [(4.0 * t, 0) for t in range(12)])
    return write_video(tmp_path_factory.mktemp("videos") / "Анна smile 1.mp4", frames)


def test_face_and_landmarks_are_cropped_together(tmp_path):
    lefts = [100, 104, 108, 112, 116, 120, 124, 128]
    video = write_images(tmp_path / "frames", [square(left, 80, 64) for left in lefts])
    made = preprocess_video(video, SquareSource(), PreprocessOptions(images_fps=50))
    assert (made.crop.x, made.crop.side) == (100, 92)  # holds the square of every frame
    assert made.clip.fps == 50
    assert made.clip.info == ClipInfo("frames", "frames", "", made.clip.info.score, 8, source=str(video))
    assert np.isnan(made.clip.info.score)
    scale = 256 / made.crop.side
    for t, left in enumerate(lefts):
        box = np.array([left, 80, left + 64, 144], float) - [made.crop.x, made.crop.y] * 2
        np.testing.assert_allclose(made.clip.landmarks[t], scale * grid(box), atol=1e-3)
        frame = decode_frame(made.clip.frames[t])
        assert frame.shape == (256, 256, 3)
        seen = np.argwhere(frame.min(axis=2) > 110)[:, ::-1]
        np.testing.assert_allclose([*seen.min(0), *seen.max(0) + 1], scale * box, atol=1)
    np.testing.assert_array_equal(made.clip.pixels, np.full((8, 63, 3), 220))
    np.testing.assert_allclose(made.clip.depth, 32 * scale, rtol=1e-5)
    np.testing.assert_allclose(made.scores, 0.9)
    assert set(made.seconds) == {"decode", "crop"}
    assert made.seconds["decode"] > 0


def test_colours_are_read_at_the_landmarks(tmp_path):
    """A colour ramp across the face: each point has the colour of its position, before compression."""
    frame = square(100, 60, 128)
    ramp = np.linspace(130, 250, 128).astype(np.uint8)
    frame[60:188, 100:228] = np.dstack(
        [np.tile(ramp, (128, 1)), np.tile(ramp[:, None], (1, 128)), np.full((128, 128), 200)]
    )
    made = preprocess_video(write_images(tmp_path / "frames", [frame] * 8), SquareSource())
    at = (np.arange(8) + 0.5) * 16
    x, y = np.meshgrid(np.interp(at, np.arange(128), ramp), np.interp(at, np.arange(128), ramp))
    expected = np.stack([x.ravel(), y.ravel(), np.full(64, 200)], axis=1)[SLOTS]
    np.testing.assert_allclose(made.clip.pixels[0].astype(int), expected, atol=3)


def test_gaps_cut_ends_and_evidence(tmp_path):
    sides = [0, 0, *[64] * 6, 0, 0, *[64] * 8, 0]
    video = write_images(tmp_path / "frames", [square(100 + 2 * t, 80, side) for t, side in enumerate(sides)])
    made = preprocess_video(video, SquareSource(), PreprocessOptions(max_gap=2))
    np.testing.assert_array_equal(made.source_frames, range(2, 18))
    np.testing.assert_array_equal(np.flatnonzero(made.interpolated), [6, 7])
    middle = landmarks.select(made.clip.landmarks, "points63").mean(axis=1)
    np.testing.assert_allclose(np.diff(middle[:, 0]), 2 * made.crop.scale, rtol=1e-3)
    evidence = json.loads(json.dumps(made.evidence(), allow_nan=False))
    assert evidence["interpolated"] == made.interpolated.tolist()
    assert evidence["scores"][5:9] == [0.9, None, None, 0.9]
    assert evidence["frames_read"] == 19
    with user_error("no_single_face", video, "frame 9"):
        preprocess_video(video, SquareSource(), PreprocessOptions(max_gap=1))


def test_another_rate_repeats_or_drops_frames(tmp_path):
    video = write_images(tmp_path / "frames", [square(100 + 2 * t, 80, 64) for t in range(20)])
    for fps, chosen in ((12.5, range(0, 20, 2)), (50, [0, 0, 1, 1])):
        made = preprocess_video(video, SquareSource(), PreprocessOptions(fps=fps))
        np.testing.assert_array_equal(made.source_frames[: len(chosen)], chosen)
        assert made.clip.fps == fps
        assert len(made.clip.frames) == len(made.clip.landmarks) == len(made.clip.pixels) == len(made.source_frames)
        shown = [decode_frame(frame) for frame in made.clip.frames]
        for t in range(3):
            left = np.argwhere(shown[t].min(axis=2) > 110)[:, 1].min()
            assert left == pytest.approx((100 + 2 * made.source_frames[t] - made.crop.x) * made.crop.scale, abs=1)


def test_8k_frames_are_reduced_only_for_the_source(tmp_path):
    frame = square(3000, 1200, 1024, (7680, 4320))
    (tmp_path / "8k.jpg").write_bytes(cv2.imencode(".jpg", frame)[1].tobytes())
    source = SquareSource(max_side=1920)
    made = preprocess_video(tmp_path / "8k.jpg", source, PreprocessOptions(min_frames=1))
    assert source.longest_seen == 1920
    assert made.frame_size == (7680, 4320)
    np.testing.assert_allclose((made.crop.x, made.crop.y, made.crop.side), (2846, 1046, 1332), atol=8)


def refusals():
    """Maps names to (frames, options, kind of the error, facts of its message)."""
    ten, lost = [square(100, 80, 64)] * 10, "no_single_face"
    two = [np.maximum(square(20, 80, 64), square(220, 90, 50 + 30 * (t > 4))) for t in range(10)]
    other, pale = [square(100, 80, 40)] * 8 + [square(240, 20, 40)] * 9, 255 - square(100, 80, 64) // 2
    return {
        "one frame": (ten[:1], {}, "short_clip", ["1 frame", "at least 7"]),
        "two frames": (ten[:2], {}, "short_clip", ["2 frames", "at least 7"]),
        "no face": ([square(0, 0, 0)] * 10, {}, lost, ["10 frames"]),
        "another person": (other, {}, lost, ["frame 9", "another face"]),
        "out of the frame": ([square(280 + 16 * t, 80, 64) for t in range(12)], {}, lost, ["3 of the 12 frames"]),
        "a cut": (ten + [pale] * 10, {}, lost, ["shot", "frame 11"]),
        "too short": (ten[:5] + [0 * pale] * 9 + ten[:4], {"keep": "longest"}, "short_clip", ["5 frames", "frame 1 "]),
    }, two


def test_unusable_videos_are_refused_by_name(tmp_path):
    cases, two = refusals()
    for name, (frames, options, kind, facts) in cases.items():
        video = write_images(tmp_path / name, frames)
        with user_error(kind, video, *facts):
            preprocess_video(video, SquareSource(), PreprocessOptions(**options))
    made = preprocess_video(write_images(tmp_path / "two people", two), SquareSource())
    assert "10 of 10 frames" in made.warnings[0]
    assert "x 52, y 112" in made.warnings[0]
    still = preprocess_video(tmp_path / "one frame", SquareSource(), PreprocessOptions(min_frames=1))
    assert len(still.clip.landmarks) == 1


def test_a_video_of_variable_rate_becomes_constant(mediapipe):
    made = preprocess_video(real_video("face_noface.mov"), mediapipe, PreprocessOptions(keep="longest", fps=25))
    assert made.source_frames[-1] == 71
    assert made.clip.fps == 25
    assert "cut off: frames 73-169 (97) of 169" in made.warnings[0]


def test_a_portrait(mediapipe, portrait):
    made = preprocess_video(portrait, mediapipe)
    assert len(made.clip.frames) == 12
    steps = np.diff(landmarks.nose_tip(made.clip.landmarks, "points63")[:, 0, 0])
    assert steps.mean() == pytest.approx(4 * made.crop.scale, rel=0.03)
    assert made.clip.depth.shape == (12, 64)
    assert (made.clip.landmarks > 0).all()
    assert (made.clip.landmarks < 256).all()
    assert not made.warnings
    assert set(made.seconds) == {"decode", "detect", "landmarks", "crop"}


# The command


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("mediapipe")
def test_the_command_makes_clips_reports_unusable_videos_and_resumes(tmp_path, portrait, capsys):
    bad, out = tmp_path / "notes.mp4", tmp_path / "clips"
    bad.write_bytes(b"a text" * 100)
    command = ["preprocess", str(portrait), str(bad), "--out", str(out), "--subject", "anna"]
    assert cli.main([*command, "--expression", "smile", "--score", "3"]) == 1
    output = capsys.readouterr()
    assert "1 made, 0 already there, 1 failed" in output.out
    assert f"error: {bad}: " in output.err
    (row,) = rows(out / "clips.csv")
    assert row == {
        "path": "Анна_smile_1", "subject": "anna", "expression": "smile", "score": "3", "video": str(portrait),
    }  # fmt: skip
    made = out / "Анна_smile_1"
    before = {path.name: path.stat().st_mtime_ns for path in made.iterdir()}
    assert cli.main(["preprocess", str(portrait), "--out", str(out)]) == 0
    assert "0 made, 1 already there" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in made.iterdir()} == before

    # Training reads the same data.
    source = _opened(out)
    clip = source[0]
    assert (clip.info.subject, clip.info.expression, clip.info.score, clip.fps) == ("anna", "smile", 3, 25)
    assert not source.check(0)[0]
    assert batch.read_origin(made, 12).interpolated == (False,) * 12

    # If a run is killed between the clip and its row, the clip is made again and listed once.
    (out / "clips.csv").write_text((out / "clips.csv").read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    assert cli.main(["preprocess", str(portrait), "--out", str(out)]) == 0
    assert len(rows(out / "clips.csv")) == 1
    assert "no score" in capsys.readouterr().out


@pytest.mark.usefixtures("mediapipe")
def test_a_second_preprocess_into_one_folder_is_refused(tmp_path, portrait, capsys):
    with locked(tmp_path / "clips"), pytest.raises(SystemExit) as stopped:
        cli.main(["preprocess", str(portrait), "--out", str(tmp_path / "clips")])
    assert (stopped.value.code, stopped.value.__context__.kind) == (1, "in_use")
    assert str(tmp_path / "clips") in capsys.readouterr().err
    assert not (tmp_path / "clips").exists()


def test_a_shard_and_the_whole_are_not_made_at_once(tmp_path):
    out, one, two = tmp_path / "clips", shards.parse("1/2"), shards.parse("2/2")
    with shards.locked(out, one):
        for other in (one, None):
            with user_error("in_use", out.parent), shards.locked(out, other):
                pass
        with shards.locked(out, two):
            pass
        with user_error("in_use", out), shards.locked(out, None):  # the second shard has left the lock of the first
            pass
    with shards.locked(out, None), user_error("in_use", out), shards.locked(out, one):
        pass
    assert not list(tmp_path.iterdir())


def test_the_command_takes_a_list(tmp_path, portrait):
    listed = tmp_path / "videos.csv"
    listed.write_text(f"path,subject,expression,score,symmetry,group\n{portrait},anna,smile,2,1.5,patients\n", "utf-8")
    flags = ["--out", str(tmp_path / "clips"), "--fps", "12.5", "--min-frames", "6"]
    assert cli.main(["preprocess", "--list", str(listed), *flags]) == 0
    (info,) = _opened(tmp_path / "clips").infos
    assert (info.subject, info.score, info.group, info.num_frames) == ("anna", 2, "patients", 6)
    assert dict(info.targets)["symmetry"] == 1.5


@pytest.mark.usefixtures("mediapipe")
def test_saved_tracks_agree_with_detection_and_flow(tmp_path, portrait, capsys):
    """Writes query points and reads tracks, which here are the known motion."""
    queries = tmp_path / "q.npz"
    assert cli.main(["preprocess", str(portrait), "--queries", str(queries)]) == 0
    assert "64 query points in frame 1 " in capsys.readouterr().out
    start = np.load(queries)["cotracker"][0, :, 1:]
    tracks = start + np.array([[[4 * t, 0]] for t in range(12)])
    np.savez(tmp_path / "Анна smile 1.npz", tracks=tracks[None], visibility=np.ones((1, 12, 64), bool))
    ways = {"tracks": ["--tracks", str(tmp_path)], "lucas-kanade": [], "mediapipe": []}
    clips = {}
    for way, flags in ways.items():
        out = str(tmp_path / way)
        assert cli.main(["preprocess", str(portrait), "--landmarks", way, *flags, "--out", out]) == 0
        clip = clip_folder.read_clip(tmp_path / way / "Анна_smile_1")
        centred = head_motion.positions(clip)
        clips[way] = centred / np.ptp(centred[0, :, 0])  # the crops differ a little in size
    for way in ("lucas-kanade", "mediapipe"):
        assert np.abs(clips[way] - clips["tracks"]).mean() < 0.02


def test_wrong_commands_give_one_line_errors(tmp_path, portrait, capsys):
    out = ["--out", str(tmp_path / "clips")]
    second = tmp_path / portrait.name
    second.write_bytes(portrait.read_bytes())
    twin = tmp_path / "deeper" / portrait.parent.name / portrait.name
    twin.parent.mkdir(parents=True)
    twin.write_bytes(portrait.read_bytes())
    table = tmp_path / "videos.csv"
    table.write_text("path,subject,expression,score\na.mp4,anna,smile,good\n", "utf-8")
    (tmp_path / "empty.csv").write_text("path,subject,expression,score\n", "utf-8")
    (tmp_path / "broken.csv").write_text("path,subject\na.mp4,anna\n", "utf-8")
    cases = [
        (out, "bad_option", ["--list"]),
        ([str(portrait)], "bad_option", ["--out"]),
        ([str(portrait), str(twin), *out], "bad_data", [portrait, twin]),
        ([str(portrait), *out, "--landmarks", "tracks"], "bad_option", ["--tracks"]),
        ([str(portrait), *out, "--max-gap", "-1"], "bad_option", ["--max-gap", -1]),
        ([str(portrait), str(second), "--queries", "q.npz"], "bad_option", ["--queries", "2"]),
        (["--list", str(table), *out], "bad_data", [table, "row 2"]),
        (["--list", str(tmp_path / "empty.csv"), *out], "bad_data", [tmp_path / "empty.csv"]),
        (["--list", str(tmp_path / "broken.csv"), *out], "bad_columns", ["broken.csv", "'expression'"]),
        (["--list", str(tmp_path / "none.csv"), *out], "missing_file", [tmp_path / "none.csv"]),
        ([str(portrait), *out, "--models-dir", str(tmp_path)], "missing_file", [tmp_path, "--models-dir"]),
    ]
    for arguments, kind, facts in cases:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["preprocess", *arguments])
        assert (stopped.value.code, stopped.value.__context__.kind) == (1, kind), arguments
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert all(str(fact) in line for fact in facts), line
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize("column", ["id", "fps", "video", "FPS"])
def test_a_column_that_would_be_lost_is_refused(tmp_path, column):
    listed = tmp_path / "videos.csv"
    listed.write_text(f"path,subject,expression,score,{column}\na.mp4,anna,smile,3,30\n")
    with user_error("bad_columns", listed, column.lower()):
        batch.read_jobs(listed)


def test_what_was_changed_in_a_list_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli_preprocess, "_source_maker", lambda *_: lambda job: SquareSource())
    write_images(tmp_path / "a", [square(100, 80, 64)] * 8)
    listed = tmp_path / "videos.csv"
    command = ["preprocess", "--list", str(listed), "--out", str(tmp_path / "out")]
    outputs = []
    for row in ("a,anna,smile,3,", "a,anna,smile,3.0,", "a,ben,smile,4,PD", "a,anna,smile,,"):
        listed.write_text(f"path,subject,expression,score,group\n{row}\n")
        assert cli.main(command) == 0
        outputs.append(capsys.readouterr().out)
    assert ["warning: a: the list has" in output for output in outputs] == [False, False, True, False]
    assert all(fact in outputs[2] for fact in ("subject ben, not anna", "score 4, not 3", "group PD", "clips.csv"))
    (row,) = rows(tmp_path / "out" / "clips.csv")
    assert (row["subject"], row["score"]) == ("anna", "3")
    for options, told in (([], False), (["--score", "3"], False), (["--score", "4"], True), (["--subject", "b"], True)):
        assert cli.main(["preprocess", str(tmp_path / "a"), "--out", str(tmp_path / "out"), *options]) == 0
        assert ("warning: a: the command has" in capsys.readouterr().out) == told


# Landmarks from files


def write_landmarks(path, seed=0, count=12):
    """A table, or tracks; each seed has another face."""
    points = landmark_table_files.drawn68(seed, count)
    if path.suffix == ".csv":
        return landmark_table_files.write(path, landmark_table_files.openface(points))
    path.parent.mkdir(exist_ok=True)
    np.savez(path, pred_tracks=landmarks.from_ibug68(points))
    return path


def noise(seed=0, count=12):
    picture = np.random.default_rng(seed).integers(0, 200, (36, 48, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    return [picture + np.uint8(i) for i in range(count)]


def test_tracks_of_one_person_are_not_used_for_another(tmp_path, capsys):
    videos = [str(write_video(tmp_path / name / "smile.mp4", noise(i))) for i, name in enumerate("ab")]
    videos.append(str(write_images(tmp_path / "take.1", noise(3))))
    for name in ("smile", "take", "take.1"):
        write_landmarks(tmp_path / "tracks" / f"{name}.npz")
    command = ["preprocess", *videos, "--landmarks", "tracks", "--tracks", str(tmp_path / "tracks"), "--out"]
    assert cli.main([*command, str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert all(f"error: {tmp_path / 'tracks' / name}" in told for name in ("a_smile.npz", "b_smile.npz"))
    assert [row["path"] for row in rows(tmp_path / "out" / "clips.csv")] == ["take.1"]


@pytest.mark.parametrize("command", ["preprocess", "score"])
def test_one_table_is_not_read_for_two_videos(tmp_path, command):
    videos = [str(tmp_path / name) for name in ("smile.mp4", "smile.mov")]
    write_landmarks(tmp_path / "smile.csv")
    for video in videos:
        shutil.copy(write_video(tmp_path / "a.mp4", noise()), video)
    if command == "preprocess":
        (tmp_path / "b").mkdir()
        shutil.move(videos[1], tmp_path / "b" / "b.mov")
        (tmp_path / "b" / "b.csv").symlink_to(tmp_path / "smile.csv")
        videos[1] = str(tmp_path / "b" / "b.mov")
    flags = ["--checkpoint", "run"] if command == "score" else []
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, *videos, "--landmarks", "table", *flags, "--out", str(tmp_path / "out")])
    assert stopped.value.__context__.kind == "bad_data"
    assert all(video in str(stopped.value.__context__) for video in videos)


def test_the_table_of_a_folder_has_its_whole_name(tmp_path):
    folders = [str(write_images(tmp_path / name, noise())) for name in ("P.1", "P.2")]
    for name in ("P.1", "P.2", "P"):
        write_landmarks(tmp_path / f"{name}.csv", seed=len(name) + int(name[-1] == "2"))
    assert cli.main(["preprocess", *folders, "--landmarks", "table", "--out", str(tmp_path / "out")]) == 0
    found = [np.load(tmp_path / "out" / name / "landmarks.npy") for name in ("P.1", "P.2")]
    assert not np.array_equal(*found)


@pytest.mark.parametrize("name", ["eva.mp4", "eva.csv", "frames"])
def test_a_clip_of_a_file_that_was_replaced_is_not_taken_for_the_new_one(tmp_path, capsys, name):
    video = write_video(tmp_path / "eva.mp4", noise())
    if name == "frames":
        video = write_images(tmp_path / "frames", noise())
    write_landmarks(video.with_suffix(".csv"))
    out = tmp_path / "out"
    command = ["preprocess", str(video), "--landmarks", "table", "--out", str(out)]
    assert cli.main(command) == 0
    assert cli.main(command) == 0
    evidence = out / video.stem / batch.EVIDENCE
    before = evidence.read_text()
    replaced = video / "3.png" if name == "frames" else tmp_path / name
    os.utime(replaced, ns=(0, replaced.stat().st_mtime_ns + 1))
    capsys.readouterr()
    assert cli.main(command) == 1
    told = capsys.readouterr().err
    assert all(fact in told for fact in (f"another {name}", "--overwrite"))
    assert cli.main([*command, "--overwrite"]) == 0
    assert cli.main(command) == 0
    found = json.loads(before)
    assert found["options"].pop(name)
    evidence.write_text(json.dumps(found))  # as an earlier version wrote it
    assert cli.main(command) == 0
    assert "1 already there" in capsys.readouterr().out


def test_a_clip_of_another_video_with_the_same_name_is_not_overwritten(tmp_path):
    video, other = (write_images(tmp_path / d / "clip", [square(100, 80, 64)] * 8) for d in "ab")
    out = tmp_path / "out"
    job, second = (batch.jobs_of([path], "", "smile", 1.0)[0] for path in (video, other))
    clip_list = batch.ClipList(out)
    assert not clip_list.done(job)
    clip_list.add(job, preprocess_video(video, SquareSource(), info=job.info))
    for again in (clip_list, batch.ClipList(out)):
        assert again.done(job)
        with user_error("bad_data", out / "clip", video, other):
            again.done(second)
    shutil.rmtree(out / "clip")  # listed, but missing: only the same video makes it again, and it is listed once
    again = batch.ClipList(out)
    with user_error("bad_data", out / "clip", video, other):
        again.done(second)
    assert not again.done(job)
    again.add(job, preprocess_video(video, SquareSource(), info=job.info))
    assert len(rows(out / "clips.csv")) == 1
    (out / "clips.csv").unlink()  # the clip exists, but is not listed
    with user_error("bad_data", out / "clip", video, other):
        batch.ClipList(out).done(second)
    assert not batch.ClipList(out).done(job)


@pytest.mark.usefixtures("mediapipe")
def test_clips_made_with_other_options_are_not_reused(tmp_path, portrait, capsys):
    out = tmp_path / "clips"
    command = ["preprocess", str(portrait), "--out", str(out)]
    assert cli.main(command) == 0
    assert cli.main([*command, "--images-fps", "50"]) == 0  # does not affect a video
    assert "1 already there" in capsys.readouterr().out
    assert cli.main([*command, "--fps", "12.5", "--landmarks", "lucas-kanade", "--min-frames", "6"]) == 1
    error = capsys.readouterr().err
    assert all(fact in error for fact in ("--landmarks mediapipe, not lucas-kanade", "--fps", "12.5", "--overwrite"))
    assert clip_folder.read_clip(out / "Анна_smile_1").fps == 25
    assert cli.main([*command, "--fps", "12.5", "--min-frames", "6", "--overwrite"]) == 0
    assert clip_folder.read_clip(out / "Анна_smile_1").fps == 12.5
    assert cli.main([*command, "--fps", "12.5", "--min-frames", "6"]) == 0
    assert len(rows(out / "clips.csv")) == 1


def test_frames_that_a_camera_did_not_take_give_a_warning(tmp_path):
    """12 frames a second in a file of 24, and the third frame of a film shown twice, as on television."""
    pictures = [np.maximum(square(100 + 2 * t, 80, 64), 10) for t in range(24)]
    files = {
        "sound": pictures,
        "doubled": [picture for picture in pictures[:12] for _ in range(2)],
        "pulled": [pictures[t * 4 // 5] for t in range(24)],
    }
    for name, frames in files.items():
        made = preprocess_video(write_images(tmp_path / name, frames), SquareSource())
        repeated = [warning for warning in made.warnings if "repeat the one before" in warning]
        assert len(repeated) == (name != "sound")
        if name == "doubled":
            assert "12 of 24 frames" in repeated[0]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(("motion", "noise"), [(0.3, 0), (0, 5), (0.3, 2), (4, 2)])
def test_repeated_frames_are_known_in_spite_of_lossy_encoding(tmp_path, codec, motion, noise):
    random, face = np.random.default_rng(0), cv2.resize(photograph(), (256, 300))

    def seen(repeat):
        """The warnings about a face that sways; each frame is shown ``repeat`` times."""
        shifts = [(motion * np.sin(0.18 * repeat * t), motion * np.cos(0.1 * repeat * t)) for t in range(60 // repeat)]
        taken = [frame + random.normal(0, noise, face.shape) for frame in moved(face, shifts)]
        frames = [frame.clip(0, 255).astype(np.uint8) for frame in taken for _ in range(repeat)]
        first_pass, rate = _FirstPass(), {"b": "1000000"}
        for _ in first_pass.watch(open_frames(encode(tmp_path / "a.mp4", frames, codec, options=rate)), None):
            pass
        return [*first_pass.warnings()]

    assert not seen(1)
    if motion > 1:
        assert "of 60 frames repeat" in seen(2)[0]


def test_a_name_with_the_prefix_of_its_folder_is_not_too_long(tmp_path):
    videos = [tmp_path / f"{letter * 83}{take}" / f"{'é' * 120} 1.mp4" for letter in "笑泣" for take in (1, 2)]
    found = [job.name for job in batch.jobs_of(videos, "", "", 0.0)]
    assert len(set(found)) == 4
    for name in found:
        (tmp_path / name).mkdir()


def test_the_evidence_records_source_and_warnings(tmp_path):
    video = write_images(tmp_path / "a clip", [square(100, 80, 64 * (t > 1)) for t in range(12)])
    (job,) = batch.jobs_of([video], "", "smile", 1.0)
    made = preprocess_video(video, SquareSource(), info=job.info)
    batch.ClipList(tmp_path / "out").add(job, made)
    clip = tmp_path / "out" / "a_clip"
    count = len(made.clip.landmarks)
    origin = batch.read_origin(clip, count)
    assert (origin.landmarks, origin.warnings) == ("square", made.warnings)
    assert made.warnings
    assert batch.read_origin(tmp_path, count) == batch.ClipOrigin()
    for text in ("[]", "no JSON", '{"warnings": 3}'):
        (clip / batch.EVIDENCE).write_text(text, "utf-8")
        with user_error("damaged_file", clip / batch.EVIDENCE):
            batch.read_origin(clip, count)


def test_ids_have_no_spaces_and_stay_different(tmp_path):
    videos = [tmp_path / f"{name}.mp4" for name in ("anna 1", "anna_1", "anna\u00a0 1", "ben")]
    jobs = batch.jobs_of(videos, "", "", 0.0)
    assert [job.name for job in jobs] == ["anna_1-2", "anna_1", "anna_1-3", "ben"]
    assert [job.info.id for job in jobs] == [job.name for job in jobs]
    assert batch.jobs_of(videos[:1], "", "", 0.0)[0].info.subject == "anna_1"

    video = write_images(tmp_path / "anna 1", [square(100, 80, 64)] * 8)
    (job,) = batch.jobs_of([video], "", "smile", 1.0)
    batch.ClipList(tmp_path / "out").add(job, preprocess_video(video, SquareSource(), info=job.info))
    (info,) = _opened(tmp_path / "out").infos
    assert info.id == "anna_1"
    assert clip_folder.read_clip(tmp_path / "out" / "anna_1").info.id == "anna_1"
    assert json.loads((tmp_path / "out" / "anna_1" / "clip.json").read_text("utf-8"))["source"] == str(video)
    assert preprocess_video(video, SquareSource()).clip.info.id == "anna_1"

    # A clip that an earlier version made, with a space in its name, is not made again.
    table = tmp_path / "out" / "clips.csv"
    table.write_text(table.read_text("utf-8").replace("anna_1,", "anna 1,", 1), "utf-8")
    (tmp_path / "out" / "anna_1").rename(tmp_path / "out" / "anna 1")
    with user_error("file_exists", table, video, "'anna 1'"):
        batch.ClipList(tmp_path / "out").done(job)


def test_a_folder_of_videos_expands_to_the_videos(tmp_path):
    videos = [write_video(tmp_path / "videos" / f"{number}.MP4", [square(9, 9, 9)] * 2) for number in (10, 2)]
    names = "11.MTS 12.3gp 13.gif 14.m2v 15.h264 16.MJPG 17.dav 18.rmvb 19.mjpeg 20.ogm"
    for name in names.split():
        videos.insert(0, tmp_path / "videos" / name)
        videos[0].touch()
    (tmp_path / "videos" / "notes.txt").touch()
    (tmp_path / "videos" / ".3.mp4").touch()
    assert expand_input(tmp_path / "videos") == sorted(videos, key=lambda path: int(path.stem))
    images = write_images(tmp_path / "images", [square(9, 9, 9)] * 2)
    for single in (images, videos[0], tmp_path / "missing", tmp_path):
        assert expand_input(str(single)) == [single]
    (images / "clip.mp4").touch()
    with user_error("ambiguous_folder", images, "clip.mp4", "1.png"):
        expand_input(images)
    (images / "clip.json").touch()
    assert expand_input(images) == [images]


def test_a_folder_of_videos_is_not_read_in_part(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "day1").mkdir()
    (tmp_path / "day1" / "notes.txt").touch()
    assert expand_input(tmp_path) == [tmp_path / "a.mp4"]
    (tmp_path / "day1" / "b.mov").touch()
    with user_error("ambiguous_folder", tmp_path, "day1"):
        expand_input(tmp_path)
    (tmp_path / "a.mp4").unlink()
    with user_error("missing_frames", tmp_path, "day1"):
        open_frames(tmp_path)


def test_what_is_left_out_of_a_folder_is_named(tmp_path, capsys):
    for name in ("a.mp4", "a.idx", "notes.txt", "b.xyz", "clips/a/1.png", "clips/a/clip.json", "ben/1/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert expand_input(tmp_path) == [tmp_path / "a.mp4"]
    (warning,) = capsys.readouterr().err.splitlines()
    assert "b.xyz, ben/1/;" in warning
    (tmp_path / "day1" / "carl").mkdir(parents=True)
    (tmp_path / "day1" / "carl" / "c.mp4").touch()
    for name in ("a.mp4", "1.png"):
        with user_error("ambiguous_folder", tmp_path, name, "day1/carl"):
            expand_input(tmp_path)
        (tmp_path / "a.mp4").unlink(missing_ok=True)
        (tmp_path / "1.png").touch()


@pytest.mark.parametrize("leads_to", ["gone.mp4", "a.mp4"])
def test_a_link_that_leads_nowhere_is_not_left_out(tmp_path, leads_to):
    """An unmounted disk, or a link to itself."""
    (tmp_path / "a.mp4").symlink_to(tmp_path / leads_to)
    (tmp_path / "b.mp4").touch()
    assert expand_input(tmp_path) == [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    with user_error("missing_file", tmp_path / "a.mp4", "link"):
        open_frames(tmp_path / "a.mp4")
    images = write_images(tmp_path / "images", [square(9, 9, 9)] * 2)
    (images / "3.png").symlink_to(images / leads_to.replace("a.mp4", "3.png"))
    with pytest.raises(OSError, match=r"3\.png"):
        list(open_frames(images))
    assert [path.name for path in image_files(images)] == ["1.png", "2.png"]  # of a clip, whose frames are counted


@pytest.mark.usefixtures("mediapipe")
def test_the_command_takes_a_folder_of_videos(tmp_path, portrait):
    for name in ("b", "a"):
        shutil.copy(portrait, tmp_path / f"{name}.mp4")
    assert cli.main(["preprocess", str(tmp_path), "--out", str(tmp_path / "clips")]) == 0
    assert [row["path"] for row in rows(tmp_path / "clips" / "clips.csv")] == ["a", "b"]


def test_two_videos_with_the_same_name_get_their_folders_name_too(tmp_path):
    videos = [tmp_path / "anna" / "smile.mp4", tmp_path / "ben" / "smile.mp4", tmp_path / "ben" / "frown.mp4"]
    assert [job.name for job in batch.jobs_of(videos, "", "", 0.0)] == ["anna_smile", "ben_smile", "frown"]


def test_the_command_offers_all_sources():
    parser = argparse.ArgumentParser()
    cli_preprocess.add_arguments(parser)
    (choices,) = (action.choices for action in parser._actions if action.dest == "landmarks")
    assert choices == SOURCES
    (choices,) = (action.choices for action in parser._actions if action.dest == "keep")
    assert choices == tracking.KEEP


def test_a_source_that_skips_frames_is_caught(tmp_path):
    class Half(SquareSource):
        def __call__(self, frames):
            yield from list(super().__call__(frames))[::2]

    video = write_images(tmp_path / "frames", [square(100, 80, 64)] * 10)
    with pytest.raises(AssertionError, match=r"square .* 5 of 10"):
        preprocess_video(video, Half())


def test_jobs_of_an_array_make_the_clips_of_one_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli_preprocess, "_source_maker", lambda *_: lambda job: SquareSource())
    for name, count in (("d", 8), ("a", 9), ("short", 3), ("b", 8), ("c", 8)):
        write_images(tmp_path / name, [square(100, 80, 64)] * count)
    listed = tmp_path / "videos.csv"
    names = ["d", "a", "short", "b", "c"]
    listed.write_text(
        "path,subject,expression,score,age\n" + "".join(f"{n},{n},smile,1,{i}\n" for i, n in enumerate(names))
    )
    command = ["preprocess", "--list", str(listed), "--out"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.main([*command, str(whole)]) == 1
    assert cli.main([*command, str(parts), "--shard", "2/2"]) == 0
    with pytest.raises(SystemExit):
        cli.main([*command, str(parts), "--collect"])
    assert "1/2" in capsys.readouterr().err
    assert cli.main([*command, str(parts), "--shard", "1/2"]) == 1
    assert cli.main([*command, str(parts), "--collect"]) == 1
    assert str(tmp_path / "short") in capsys.readouterr().out
    assert content(parts) == content(whole)
    assert cli.main([*command, str(parts), "--shard", "2/2"]) == 0
    assert "0 made, 2 already there" in capsys.readouterr().out


@pytest.fixture
def with_tables(tmp_path):
    """Makes short videos of noise with a table of landmarks beside each."""

    def make(count):
        picture = np.random.default_rng(0).integers(0, 200, (36, 48, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        first = write_video(tmp_path / "videos" / "0.mp4", (picture + np.uint8(i) for i in range(12)))
        table = landmark_table_files.write(first.with_suffix(".csv"), landmark_table_files.openface(drawn68(count=12)))
        for path in (first, table):
            for number in range(1, count):
                shutil.copy(path, path.with_stem(str(number)))
        return first.parent

    return make


def test_processes_make_the_clips_of_one_and_go_on_where_they_were(with_tables, tmp_path, capfd):
    videos = with_tables(5)
    (videos / "2.csv").unlink()
    command = ["preprocess", str(videos), "--landmarks", "table", "--out"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.main([*command, str(whole)]) == 1
    capfd.readouterr()

    command += [str(parts), "--jobs", "2"]
    with locked(tmp_path / "parts.shard-2-of-2"):  # so that one of them cannot begin
        assert cli.main(command) == 1
    assert "in use by" in capfd.readouterr().err
    assert not (parts / folder.LIST).exists()
    made = {path: path.stat().st_mtime_ns for path in parts.glob("*/clip.json")}
    assert len(made) == 2
    with user_error("bad_option", parts / folder.LIST, "2 jobs"):
        shards.run_jobs([], parts / folder.LIST, 3, 5, "video", lambda: 0)

    assert cli.main(command) == 1
    printed = capfd.readouterr()
    assert printed.err.count(str(videos / "2.csv")) == 1
    assert "clips: 4 of 5" in printed.out
    assert [line.partition(":")[0] for line in printed.out.splitlines() if "frames at" in line] == ["1", "3"]
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert content(parts) == content(whole)


def test_processes_end_with_the_command(with_tables, tmp_path):
    videos, out = with_tables(60), tmp_path / "out"
    command = ["preprocess", str(videos), "--landmarks", "table", "--out", str(out), "--jobs", "2"]
    command = [sys.executable, "-m", "tramp_jax", *command]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline()  # the first clip
        running.send_signal(signal.SIGTERM)
        _, told = running.communicate()
    assert running.returncode == EXIT_INTERRUPTED
    assert told.count("run the same command again") == 1
    parts = [out / f"clips.shard-{number}-of-2.csv" for number in (1, 2)]
    assert sum(len(part.read_text().splitlines()) - 1 for part in parts if part.exists()) < 60
    for number in (1, 2):
        with locked(tmp_path / f"out.shard-{number}-of-2"):
            pass


def content(root):
    """The files below a folder; not hidden ones, which readers ignore, nor how long a clip took."""
    names = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    found = {name: (root / name).read_bytes() for name in names if not any(x.startswith(".") for x in name.parts)}
    timed = {name: json.loads(text) for name, text in found.items() if name.name == batch.EVIDENCE}
    return found | {name: evidence | {"seconds": 0} for name, evidence in timed.items()}


_KILLED = """
import os, signal, sys
from tests.preprocess_inputs import SquareSource
from tramp_jax import cli
from tramp_jax.cli import preprocess
from tramp_jax.preprocess import batch

preprocess._source_maker = lambda *_: lambda job: SquareSource()
root, moments = sys.argv[1], int(sys.argv[2])
for moment in range(moments):
    if not (child := os.fork()):  # before any thread is there
        left = iter(range(moment))

        def killing(rename):
            return lambda *paths: os.kill(os.getpid(), signal.SIGKILL) if next(left, None) is None else rename(*paths)

        os.rename, os.replace = killing(os.rename), killing(os.replace)
        cli.main(["preprocess", f"{root}/a", f"{root}/b", "--out", f"{root}/{moment}"])
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_killed_preprocess_goes_on_where_it_was(tmp_path, monkeypatch):
    """Killed at each moment when a file or folder gets its name: the list, then folder and row of a clip."""
    monkeypatch.setattr(cli_preprocess, "_source_maker", lambda *_: lambda job: SquareSource())
    videos = [write_images(tmp_path / name, [square(100, 80, 64)] * 8) for name in "ab"]
    command, moments = ["preprocess", *map(str, videos), "--out"], 1 + 2 * 2
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    killed = [sys.executable, "-c", _KILLED, str(tmp_path), str(moments + 1)]
    found = subprocess.run(killed, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [int(line) for line in found.stdout.splitlines() if re.fullmatch(r"-?\d+", line)] == [
        *[-signal.SIGKILL] * moments, 0,
    ]  # fmt: skip
    for moment in range(moments):
        out = tmp_path / str(moment)
        assert cli.main([*command, str(out)]) == 0
        assert content(out) == content(tmp_path / "whole")
        assert not list(out.glob(".[!c]*"))  # pictures of faces


def test_what_a_kill_left_of_another_clip_stays(tmp_path):
    names = [".a.0123abcd.tmp", ".a-0123abcd.old", "", ".a.b.0123abcd.tmp", ".a.tmp", ".a.lock"]
    long = "笑" * 84
    names[2] = hidden(tmp_path / long, "0123abcd.tmp").name
    for name in names:
        (tmp_path / name).mkdir()
    clip_folder.remove_unfinished(tmp_path, ["a", long])
    assert {path.name for path in tmp_path.iterdir()} == {*names[3:]}


def test_a_clip_without_its_evidence_is_made_again(tmp_path, monkeypatch, capsys):
    """As an earlier version left it if it was killed; the evidence has the clip's warnings."""
    monkeypatch.setattr(cli_preprocess, "_source_maker", lambda *_: lambda job: SquareSource())
    command = ["preprocess", str(write_images(tmp_path / "a", [square(100, 80, 64)] * 8)), "--out", str(tmp_path / "o")]
    for made in (1, 0, 1):
        assert cli.main(command) == 0
        assert f"{made} made, {1 - made} already there" in capsys.readouterr().out
        if not made:
            (tmp_path / "o" / "a" / batch.EVIDENCE).unlink()
