import dataclasses
import errno
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.preprocess_inputs import SquareSource, square, write_images
from tramp_jax import cli
from tramp_jax.data import landmarks
from tramp_jax.data.clip_folder import write_clip
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.preprocess import PreprocessOptions, batch, overlay, preprocess_video
from tramp_jax.synthetic.faces import SyntheticFaces


@pytest.fixture
def clip_folder(tmp_path):
    """A clip of 16 frames made of a video; its frames 6 and 7 are interpolated."""
    sides = [*[64] * 6, 0, 0, *[64] * 8]
    video = write_images(tmp_path / "frames", [square(100 + 2 * t, 80, side) for t, side in enumerate(sides)])
    (job,) = batch.jobs_of([video], "anna", "smile", 3.0)
    made = preprocess_video(video, SquareSource(), PreprocessOptions(), job.info)
    batch.ClipList(tmp_path / "clips").add(job, made)
    return tmp_path / "clips" / "frames"


def test_points_are_drawn_where_they_are_in_the_colour_of_their_group():
    frame = np.full((256, 256, 3), 90, np.uint8)
    points = np.zeros((64, 2), np.float32)
    points[:, 0], points[:, 1] = 10.5 + 28 * (np.arange(64) % 9), 20.5 + 28 * (np.arange(64) // 9)
    points[63] = (240.5, 240.5)
    shown = overlay.draw(frame, points, "points63")
    assert shown.shape == (512, 512, 3)
    for slot, (x, y) in enumerate(landmarks.select(points[None], "points63")[0]):
        colour = overlay.COLOURS[slot // landmarks.GROUP_SIZE]
        if slot not in (45, 49, 54, 57):  # the mouth corners are drawn twice, in two colours
            np.testing.assert_allclose(shown[int(2 * y), int(2 * x)], colour, atol=8)
    np.testing.assert_array_equal(shown[481, 481], (255, 255, 255))
    drawn = (shown != 90).any(axis=2).mean()
    assert 0.005 < drawn < 0.02
    marked = overlay.draw(frame, points, "points63", marked=True)
    np.testing.assert_array_equal(marked[200, 0], (255, 40, 40))
    assert (marked != shown)[8:-8, 8:-8].sum() == 0


def test_a_sheet_of_frames(clip_folder, tmp_path, capsys):
    assert cli.main(["view", str(clip_folder), "--out", str(tmp_path / "Übersicht 1.png")]) == 0
    assert "16 frames at 25 per second, 2 interpolated" in capsys.readouterr().out
    sheet = cv2.imdecode(np.fromfile(tmp_path / "Übersicht 1.png", np.uint8), cv2.IMREAD_COLOR_RGB)
    assert sheet.shape == (3 * 512, 4 * 512, 3)
    shown = np.linspace(0, 15, 12).astype(int)
    for tile, number in enumerate(shown):
        row, column = divmod(tile, 4)
        border = sheet[512 * row + 300, 512 * column + 1]
        assert (border == (255, 40, 40)).all() == (number in (6, 7))


def test_a_video_of_all_frames(clip_folder, tmp_path):
    assert cli.main(["view", str(clip_folder), "--out", str(tmp_path / "x.mp4")]) == 0
    video = cv2.VideoCapture(str(tmp_path / "x.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 25
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 16
    assert frames[0].shape == (512, 512, 3)
    red = [frame[100:400, 1, 2].mean() - frame[100:400, 1, 1].mean() > 100 for frame in frames]
    assert [number for number, marked in enumerate(red) if marked] == [6, 7]


def test_clips_of_other_origin_are_shown_too(tmp_path):
    clip = SyntheticFaces(1, 1, expressions=("smile",))[0]
    write_clip(tmp_path / "synthetic", clip)
    assert cli.main(["view", str(tmp_path / "synthetic"), "--out", str(tmp_path / "x.jpg")]) == 0
    bare = Clip(ClipInfo("a", "a", "", 0.0, 3), clip.landmarks[:3], clip.layout)
    sheet = overlay.sheet(bare)
    assert sheet.shape == (512, 3 * 512, 3)
    assert 0.002 < (sheet.max(axis=2) > 100).mean() < 0.02  # points and numbers on black


def test_what_cannot_be_shown_is_explained(clip_folder, tmp_path, capsys):
    cases = [
        ([str(clip_folder), "--out", str(tmp_path / "x.gif")], "must end in .mp4"),
        ([str(tmp_path / "none"), "--out", str(tmp_path / "x.png")], "clip folder"),
        ([str(clip_folder), "--out", str(clip_folder / "clip.json" / "x.mp4")], "clip.json is a file"),
        ([str(clip_folder), "--out", str(clip_folder / "clip.json" / "x.png")], "clip.json is a file"),
    ]
    for arguments, words in cases:
        with pytest.raises(SystemExit):
            cli.main(["view", *arguments])
        assert words in capsys.readouterr().err
    for evidence in ('{"interpolated": [true]}', "no json", '["a"]'):
        (clip_folder / batch.EVIDENCE).write_text(evidence, "utf-8")
        with pytest.raises(SystemExit):
            cli.main(["view", str(clip_folder), "--out", str(tmp_path / "x.png")])
        assert "evidence.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.png", "x.mp4"])
def test_what_cannot_be_drawn_to_its_end_leaves_the_old_file(name, clip_folder, tmp_path, monkeypatch):
    drawn = iter(range(4))

    def picture(clip, number, interpolated):
        if next(drawn, None) is None:
            raise MemoryError
        return np.zeros((512, 512, 3), np.uint8)

    out = tmp_path / "pictures" / name
    out.parent.mkdir()
    out.write_text("old")
    monkeypatch.setattr(overlay, "picture", picture)
    with pytest.raises(MemoryError):
        cli.main(["view", str(clip_folder), "--out", str(out), "--overwrite"])
    assert out.read_text() == "old"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("full_at", [batch.EVIDENCE, "clip.json"])
def test_a_full_disk_leaves_the_list_and_the_clip_as_they_were(full_at, clip_folder, tmp_path, monkeypatch):
    clips = clip_folder.parent
    jobs = batch.jobs_of([tmp_path / "frames"], "anna", "smile", 3.0)
    made = preprocess_video(jobs[0].video, SquareSource(), PreprocessOptions(), jobs[0].info)
    other = dataclasses.replace(jobs[0], name="other")
    clip_list = batch.ClipList(clips)
    before = (clips / "clips.csv").read_bytes()

    write = Path.write_text

    def full(path, *text, **encoding):
        if path.name == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *text, **encoding)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            clip_list.add(other, made)
    assert (clips / "clips.csv").read_bytes() == before
    assert {path.name for path in clips.iterdir()} == {"clips.csv", clip_folder.name}
    clip_list.add(other, made)  # once there is room
    assert (clips / "clips.csv").read_bytes().startswith(before)
    assert len((clips / "clips.csv").read_text().splitlines()) == 3
