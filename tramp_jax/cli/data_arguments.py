"""Command-line arguments shared by ``pack`` and ``validate``: the data set, its folder and its options.

Imports the rest of the package only when it runs, so that ``--help`` does not wait for jax.
"""

import argparse
import difflib
import os
from typing import TYPE_CHECKING, Any

from tramp_jax.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from tramp_jax.data.datasets import Wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the shared arguments to the parser of a subcommand."""
    parser.add_argument("--dataset", default="", metavar="NAME", help="such as pfed5; not needed for a packed data set")
    parser.add_argument("--root", default="", metavar="DIR", help="folder of the data set, as for --config.data.root")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", dest="settings",
        help="options of the data set, as in --config.data.KEY=VALUE; separate the items of a list with commas",
    )  # fmt: skip
    parser.add_argument("--no-frames", action="store_true", help="read only landmarks and colours")
    parser.add_argument("--no-colours", action="store_true", help="read no colours; for models of motion alone")
    parser.add_argument("--no-landmarks", action="store_true", help="read only frames; for models of frames alone")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="threads (default: %(default)s)"
    )


def config_of(arguments: argparse.Namespace) -> "tuple[ConfigDict, Wanted]":
    """Returns the configuration for the arguments, and the parts of each clip to read.

    Raises:
      UserError: bad_option, if no data set is named, an option is unknown, a value has the wrong type, or nothing is
        left to read.
    """
    from tramp_jax import config as defaults
    from tramp_jax.data import datasets, packed_clips

    name = arguments.dataset
    frames, marks = not arguments.no_frames, not arguments.no_landmarks
    if not (frames or marks):
        raise UserError("bad_option", "--no-frames and --no-landmarks together leave nothing to read; use one of them")
    if arguments.root and packed_clips.is_packed(arguments.root):
        manifest = packed_clips.read_manifest(arguments.root)
        name = name or manifest.name
        packed = manifest.request["wanted"]
        frames, marks = frames and packed["frames"], marks and packed["landmarks"]
    if not name:
        raise UserError("bad_option", f"--dataset is missing; choose from {', '.join(datasets.READERS)}")
    known = datasets.options(name)
    config = defaults.base()
    config.data.update(known, root=arguments.root)
    del known["name"]  # set by --dataset
    for setting in arguments.settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError("bad_option", f"--set {setting}: write KEY=VALUE")
        if key == "target":
            raise UserError(
                "bad_option",
                f"--set {setting}: the rating to learn is a training option (--config.data.target={text}); check it "
                f"with `tramp-jax validate --target {text}`",
            )
        if key not in known:
            close = difflib.get_close_matches(key, known, 1, cutoff=0)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(
                "bad_option", f"--set {setting}: {name} has no option {key}; {hint}known: {', '.join(known) or 'none'}"
            )
        config.data[key] = _value(setting, text, known[key])
    return config, datasets.Wanted(frames, pixels=marks and not arguments.no_colours, landmarks=marks)


def _value(setting: str, text: str, default: Any) -> Any:
    """Converts ``text`` to the type of ``default``."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int | float):
            return type(default)(text)
    except (KeyError, ValueError):
        raise UserError("bad_option", f"--set {setting}: write a value like the default, {default!r}") from None
    return tuple(filter(None, text.split(","))) if isinstance(default, tuple) else text
