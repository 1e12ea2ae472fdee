"""``tramp-jax calibrate``: sets the width of score intervals from a run's validation subjects."""

import argparse
import sys

from tramp_jax.files import expanded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="+",
        type=expanded,
        metavar="RUN",
        help="folder of a run of train.py; several runs with the same split are calibrated as an ensemble, and so are "
        "the folds of a cross-validated run",
    )
    parser.add_argument("--which", default="best", help="checkpoint of the run: best (default), last, or a step")
    parser.add_argument("--level", type=float, default=0.9, help="share of clips to cover (default 0.9)")
    parser.add_argument("--data-root", default="", help="new folder of the data, if it has moved since training")


def run(arguments: argparse.Namespace) -> int:
    from tramp_jax.cli.scripts import quick_start
    from tramp_jax.output import FEW_PEOPLE
    from tramp_jax.scoring.run_calibration import calibrate_run

    quick_start()
    found, written = calibrate_run(
        arguments.checkpoint, which=arguments.which, level=arguments.level, data_root=arguments.data_root
    )
    sys.stdout.write(
        f"{100 * found.level:g}% intervals from {found.clips} clips of {found.subjects} people that the model was not "
        "trained on\n"
    )
    if found.coverage is not None:
        sys.stdout.write(
            f"they cover {found.test}; their mean width is {found.width:.2f} on a scale of {found.low:g} to "
            f"{found.high:g}\n"
        )
    sys.stdout.write(f"written: {written}\n")
    if found.subjects < FEW_PEOPLE:
        sys.stdout.write(
            f"warning: {found.subjects} people are few for a calibration, so intervals may cover fewer clips of other "
            "people than stated; add people, or cross-validate (docs/scoring.md)\n"
        )
    return 0
