"""``tramp-jax view``: draws a clip's landmarks over its frames, as a video or a sheet of frames."""

import argparse
import sys

from tramp_jax.errors import UserError
from tramp_jax.files import check_new, expanded

_PICTURES, _VIDEOS = (".png", ".jpg", ".jpeg"), (".mp4",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clip", type=expanded, help="folder of a clip made by tramp-jax preprocess")
    parser.add_argument(
        "--out", type=expanded, required=True, help="X.mp4 for a video; X.png or X.jpg for a sheet of frames"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    from tramp_jax.data import clip_folder
    from tramp_jax.preprocess import batch, overlay

    kind = arguments.out.suffix.lower()
    if kind not in (*_PICTURES, *_VIDEOS):
        raise UserError("bad_value", f"{arguments.out}: must end in {', '.join((*_VIDEOS, *_PICTURES))}")
    check_new(arguments.out, arguments.overwrite)
    clip = clip_folder.read_clip(arguments.clip, with_pixels=False)
    interpolated = batch.read_origin(arguments.clip, len(clip.landmarks)).interpolated
    write = overlay.write_video if kind in _VIDEOS else overlay.write_sheet
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write(arguments.out, clip, interpolated)
    sys.stdout.write(
        f"{arguments.out}: {len(clip.landmarks)} frames at {clip.fps:g} per second, {sum(interpolated)} interpolated\n"
    )
    return 0
