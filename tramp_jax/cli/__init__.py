"""The subcommands of the program ``tramp-jax``, a module each.

A module offers ``add_arguments(parser)`` and ``run(arguments) -> exit code``. Only the module of
the command in question is imported: asking for help must not wait for jax.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

# In the order in which a user meets them.
COMMANDS: dict[str, str] = {
    "score": "score videos with a trained model: a table with intervals, and a report for each",
    "calibrate": "learn from a run's validation people how wide the intervals of its scores must be",
    "export": "write a trained model as an ONNX file",
    "preprocess": "make clips with landmarks of videos, folders of images or images",
    "validate": "list everything that is wrong with a data set, or verify a packed one",
    "pack": "write a data set into few large files that are read quickly in any order",
    "view": "draw a clip's landmarks over its frames, as a video or a sheet of frames",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tramp-jax",
        description="Score facial expressions in short videos from landmark trajectories and frames.",
        epilog="commands:\n" + "\n".join(f"  {name:12s} {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below; COMMAND --help tells more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)

    module = importlib.import_module(f"tramp_jax.cli.{chosen.command}")
    subparser = argparse.ArgumentParser(prog=f"tramp-jax {chosen.command}", description=COMMANDS[chosen.command])
    module.add_arguments(subparser)
    arguments = subparser.parse_args(chosen.arguments)

    from tramp_jax import commands  # imports jax

    with commands.told():
        return int(module.run(arguments))


def program() -> None:
    """Entry point of the console script."""
    sys.exit(main())
