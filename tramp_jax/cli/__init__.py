"""The program ``tramp-jax``: each subcommand is a module with ``add_arguments(parser)`` and ``run(arguments)``.

``run`` returns the exit code. Only the module of the chosen command is imported, and it imports jax only in ``run``, so
``--help`` answers at once.
"""

import argparse
import difflib
import importlib
import itertools
import sys
from collections.abc import Sequence
from typing import Any

from tramp_jax.cli.exit_codes import exit_codes

# In the order of the help.
COMMANDS: dict[str, str] = {
    "score": "score videos with a trained model: a table with intervals, and a report for each video",
    "study": "train the rows of a table that compares models, such as the paper's ablations",
    "calibrate": "set the width of score intervals from a run's validation subjects",
    "export": "write a trained model as an ONNX file",
    "preprocess": "turn videos, folders of images or images into clips with landmarks",
    "validate": "list all problems with a data set, or verify a packed one",
    "pack": "write a data set into a few large files that are fast to read in any order",
    "view": "draw a clip's landmarks over its frames, as a video or a sheet of frames",
}


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that names the closest option if one does not exist."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known = self._option_string_actions
        given = sys.argv[1:] if args is None else args
        for text in itertools.takewhile(lambda text: text != "--", given):
            name = text.partition("=")[0]
            unknown = name.startswith("--") and " " not in name and not any(each.startswith(name) for each in known)
            if unknown and (close := difflib.get_close_matches(name, known, n=1)):
                self.error(f"no such option: {name}; did you mean {close[0]}?")
        return super().parse_known_args(args, namespace)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="tramp-jax",
        description="Score facial expressions in short videos from landmark trajectories and frames.",
        epilog="commands:\n" + "\n".join(f"  {name:12s} {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="see below; COMMAND --help shows its options"
    )
    argv = sys.argv[1:] if argv is None else argv
    chosen = parser.parse_args(argv[:1])  # given more, it would drop a "--" in front of a name such as -x.mp4

    module = importlib.import_module(f"tramp_jax.cli.{chosen.command}")
    subparser = Parser(prog=f"tramp-jax {chosen.command}", description=COMMANDS[chosen.command])
    module.add_arguments(subparser)
    arguments = subparser.parse_args(argv[1:])
    arguments.line = list(argv)
    with exit_codes():
        return int(module.run(arguments))


def program() -> None:
    """Entry point of the console script."""
    sys.exit(main())
