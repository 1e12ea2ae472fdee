"""A clip in its own folder, as ``tramp-jax preprocess`` writes it. docs/data.md shows the files."""

import dataclasses
import json
import math
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tramp_jax import json_files
from tramp_jax.data import clip_files, images, landmarks
from tramp_jax.data.clip_checks import clip_problems
from tramp_jax.data.clips import Clip, ClipInfo, encode_frame
from tramp_jax.data.problems import Problems
from tramp_jax.data.source import Wanted
from tramp_jax.errors import UserError
from tramp_jax.files import hidden

DESCRIPTION, LANDMARKS, COLOURS, DEPTH = "clip.json", "landmarks.npy", "colours.npy", "depth.npy"
DEFAULT_FPS = 25.0

# fmt: off
VIDEOS = (
    ".264", ".265", ".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avi", ".dav", ".divx", ".dv",
    ".evo", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ismv", ".ivf", ".m1v", ".m2t",
    ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg",
    ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".trp", ".ts", ".vob",
    ".vro", ".webm", ".wmv", ".wtv", ".y4m",
)
# fmt: on
_UNFINISHED = ("tmp", "old")  # endings of a clip that is not whole yet, and of one that is being replaced
_AGAIN = "make the clip again with `tramp-jax preprocess`"


def is_clip(folder: Path) -> bool:
    """Whether a folder holds a clip."""
    return (folder / DESCRIPTION).is_file()


def read_clip(folder: str | Path, with_frames: bool = True, with_pixels: bool = True) -> Clip:
    """Reads a clip folder that no list describes. Fields that clip.json lacks become "", or NaN for the score.

    Frames are read if there are any, and colours from colours.npy or else from the frames, unless they are not wanted.
    """
    folder, problems = Path(folder), Problems()
    count = count_frames(folder, folder.name, problems)
    described = _read_description(folder, folder.name, problems)
    targets = described.get("targets", {})
    try:
        info = ClipInfo(
            id=str(described.get("id", folder.name)),
            subject=str(described.get("subject", "")),
            expression=str(described.get("expression", "")),
            score=float("nan" if described.get("score") is None else described["score"]),
            num_frames=count,
            group=str(described.get("group", "")),
            targets=tuple((str(name), float(value)) for name, value in targets.items()),
            source=str(folder),
        )
    except (TypeError, ValueError, AttributeError) as error:
        message = f"{folder / DESCRIPTION}: score and targets must be numbers ({error}); {_AGAIN}"
        raise UserError("bad_description", message) from error
    has_images = bool(clip_files.image_files(folder))
    has_pixels = has_images or (folder / COLOURS).is_file()
    clip = read_listed(folder, info, Wanted(with_frames and has_images, with_pixels and has_pixels), problems)
    assert clip is not None
    return clip


def read_listed(folder: Path, info: ClipInfo, wanted: Wanted, problems: Problems) -> Clip | None:
    """Reads the wanted parts of a clip folder whose ``info`` comes from a list; see ``source.FileSource``."""
    before = len(problems.found)
    described: dict[str, Any] = {}
    if wanted.landmarks or is_clip(folder):  # frames need no description
        described = _read_description(folder, info.id, problems)
    layout = described.get("layout")
    layouts = tuple(name for name in landmarks.LAYOUTS if name == layout)
    if wanted.landmarks and not layouts and len(problems.found) == before:
        message = f"{folder / DESCRIPTION}: layout is {layout!r}; known: {', '.join(landmarks.LAYOUTS)}"
        problems.add("bad_description", message, info.id)
    fps = described.get("fps", DEFAULT_FPS)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
        message = f"{folder / DESCRIPTION}: fps is {fps!r}, not a number above 0; {_AGAIN}"
        problems.add("bad_description", message, info.id)
        fps = DEFAULT_FPS
    colours, depth = folder / COLOURS, folder / DEPTH
    files = clip_files.ClipFiles(
        frames=folder,
        landmarks=folder / LANDMARKS,
        layouts=layouts or tuple(landmarks.LAYOUTS),  # with an unknown layout, a collector still checks the points
        fps=float(fps),
        cure=_AGAIN,
        colours=colours if colours.is_file() else None,
        depth=depth if depth.is_file() else None,
    )
    clip = clip_files.read_clip(info, files, wanted, problems)
    if clip is None or (wanted.landmarks and not layouts):
        return None
    return dataclasses.replace(clip, landmark_source=str(described.get("landmark_source", "")))


def count_frames(folder: Path, clip: str, problems: Problems, with_landmarks: bool = True, place: str = "") -> int:
    """Counts a clip's frames by its landmarks (without reading them), or by its images if landmarks are not wanted.

    ``problems`` takes a folder that is missing or not preprocessed, or a damaged landmark file; the count is then 0.
    ``place`` is where the clip is listed, for messages.
    """
    path = folder / LANDMARKS
    if folder.is_file() and folder.suffix.lower() in VIDEOS:
        message = f"{folder} is a video; make a clip of it with `tramp-jax preprocess`, and use the clip instead"
        problems.add("not_preprocessed", place + message, clip)
    elif not folder.is_dir():
        problems.add("missing_clip", f"{place}{folder}: no such clip folder; correct its path", clip)
    elif not with_landmarks:
        if count := len(clip_files.image_files(folder)):
            return count
        problems.add("missing_frames", f"{place}{folder}: has no images; {_AGAIN}", clip)
    elif not path.is_file():
        message = f"{folder}: has no {LANDMARKS}; run `tramp-jax preprocess` first to find the face and its landmarks"
        problems.add("not_preprocessed", place + message, clip)
    else:
        try:
            return clip_files.npy_length(path)
        except Exception as error:  # a damaged file raises almost anything
            message = f"{place}{path}: not a plain .npy array of numbers ({error}); {_AGAIN}"
            problems.add("unreadable_array", message, clip)
    return 0


def _read_description(folder: Path, clip: str, problems: Problems) -> dict[str, Any]:
    """The contents of clip.json; {} if it cannot be used."""
    path = folder / DESCRIPTION
    try:
        return json_files.read(path, _AGAIN)
    except FileNotFoundError:
        message = f'{path}: no such file; it must name the landmark layout: {{"layout": NAME}}; {_AGAIN}'
    except UserError as error:
        message = error.message
    problems.add("bad_description", message, clip)
    return {}


def write_clip(
    folder: str | Path, clip: Clip, overwrite: bool = False, further: Mapping[str, str] | None = None
) -> None:
    """Writes a clip folder completely or not at all.

    Image files are stored unchanged, frame arrays as JPEG of quality 95. A killed process leaves a folder whose name
    begins with a dot, which readers ignore; see ``remove_unfinished``.

    ``read_clip(folder)`` then returns the same clip. Missing parents of the folder are created. ``overwrite`` replaces
    an existing clip. ``further`` has the texts of more files, by their names.

    Raises:
      UserError: file_exists if the folder exists and ``overwrite`` is False, or if it does not hold a clip.
      ValueError: the parts of the clip are inconsistent.
    """
    folder = Path(folder).expanduser().absolute()
    counted = dataclasses.replace(clip, info=dataclasses.replace(clip.info, num_frames=len(clip.landmarks)))
    for problem in clip_problems(counted, with_values=False):
        raise ValueError(problem.message)
    if folder.exists() and not overwrite:
        raise UserError("file_exists", f"{folder}: exists already; choose another name, or overwrite it")
    if folder.exists() and not is_clip(folder):
        message = f"{folder}: exists and is not a clip (it has no {DESCRIPTION}), so it is not overwritten"
        raise UserError("file_exists", f"{message}; choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent, because a rename cannot cross disks.
    made, old = (hidden(folder, f"{secrets.token_hex(4)}.{kind}") for kind in _UNFINISHED)
    made.mkdir()
    try:
        _write(made, clip)
        for name, text in (further or {}).items():
            (made / name).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rename(old)  # a folder cannot be renamed to one that is not empty
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(root: Path, names: Iterable[str]) -> None:
    """Removes what killed processes left of the clips ``names`` in ``root``. No other program may be writing them."""
    ours = {hidden(root / name, f"{'0' * 8}.{kind}").name for name in names for kind in _UNFINISHED}
    for path in root.iterdir():
        if re.sub(r"[.-][0-9a-f]{8}(?=[.]\w+$)", ".00000000", path.name) in ours:
            shutil.rmtree(path, ignore_errors=True)


def _write(folder: Path, clip: Clip) -> None:
    for number, frame in enumerate(() if clip.frames is None else clip.frames, 1):
        image = encode_frame(frame) if isinstance(frame, np.ndarray) else frame
        kind = "png" if image.startswith(images.PNG) else "jpg"
        (folder / f"{number:06d}.{kind}").write_bytes(image)
    np.save(folder / LANDMARKS, clip.landmarks.astype(np.float32))
    if clip.pixels is not None:
        np.save(folder / COLOURS, clip.pixels)
    if clip.depth is not None:
        np.save(folder / DEPTH, clip.depth.astype(np.float32))
    info = dataclasses.asdict(clip.info)
    del info["num_frames"]
    info |= {"score": info["score"] if math.isfinite(info["score"]) else None, "targets": dict(info["targets"])}
    description = {"layout": clip.layout, "fps": clip.fps, **info}
    if clip.landmark_source:
        description["landmark_source"] = clip.landmark_source
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, allow_nan=False) + "\n", encoding="utf-8")
