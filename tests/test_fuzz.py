"""A few random tries of each target of ``tests.fuzz``, always the same ones, and the cases that it found."""

import struct
import zlib

import numpy as np
import pytest

from tests import fuzz
from tests.raises import user_error
from tramp_jax.preprocess.sources.tracks import Tracks
from tramp_jax.preprocess.video import open_frames

_ORBAX = ("run folder", "converted folder")  # its threads still complain when the next test runs
TRIES = dict.fromkeys(fuzz.TARGETS, 60) | {"run folder": 10, "converted folder": 20}


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_only_our_own_error_comes_out(name, tmp_path):
    if name in _ORBAX:
        found = fuzz.run(name, seed=0, first=0, tries=TRIES[name])
    else:
        found = fuzz.try_here(name, tmp_path, seed=0, numbers=range(TRIES[name]))
    assert found.findings == []
    assert found.tries == TRIES[name]
    assert found.refused > 0


def test_changes_repeat_and_change():
    content = b'{"a": 1, "b": [1, 2, {"c": "d"}]}'
    made = [fuzz.change(content, "x.json", np.random.default_rng(seed)) for seed in range(50)]
    assert made == [fuzz.change(content, "x.json", np.random.default_rng(seed)) for seed in range(50)]
    assert sum(each != content for each in made) > 45


def test_a_finding_is_reported(tmp_path, monkeypatch):
    def read(folder, changed):
        if changed.is_dir() or not changed.exists() or changed.read_bytes() != b"sound":
            raise KeyError("bug")

    target = fuzz.Target(lambda folder: (folder / "a").write_bytes(b"sound"), read)
    monkeypatch.setitem(fuzz.TARGETS, "broken", target)
    found = fuzz.try_here("broken", tmp_path, 0, range(3))
    assert len(found.findings) >= 2
    assert "KeyError" in found.findings[0]
    assert (tmp_path / "a").read_bytes() == b"sound"


def test_a_png_whose_chunk_declares_gigabytes_is_refused(tmp_path):
    """OpenCV reserves what the chunk declares."""

    def chunk(name: bytes, content: bytes, length: int) -> bytes:
        return struct.pack(">I", length) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, 13) + chunk(b"fdAT", b"1234", 0xF0FF0028))
    before = fuzz.megabytes()
    with user_error("truncated_image", path, "truncated"):
        list(open_frames(path))
    assert fuzz.megabytes() - before < 100


def test_tracks_at_impossible_places_count_as_hidden(tmp_path):
    points = np.random.default_rng(0).uniform(0, 64, (64, 5, 2))
    points[3, 2, 0] = 1e300
    np.save(tmp_path / "a.npy", points)
    (face,) = list(Tracks(tmp_path / "a.npy")([np.zeros((64, 64, 3), np.uint8)] * 5))[2]
    assert face.points[3, 0] == pytest.approx((points[3, 1, 0] + points[3, 3, 0]) / 2)
