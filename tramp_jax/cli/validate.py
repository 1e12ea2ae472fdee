"""``tramp-jax validate``: lists all problems with a data set."""

import argparse
import sys

from tramp_jax.cli import data_arguments
from tramp_jax.errors import UserError
from tramp_jax.files import check_new, expanded, write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data_arguments.add_arguments(parser)
    parser.add_argument(
        "--target", default="", metavar="NAME", help="also check the rating that --config.data.target=NAME would learn"
    )
    parser.add_argument(
        "--classes", type=int, default=0, metavar="N", help="also check that scores are classes 0 to N-1 when rounded"
    )
    parser.add_argument("--json", type=expanded, metavar="FILE", help="also write the problems to FILE")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing FILE")


def run(arguments: argparse.Namespace) -> int:
    from tramp_jax.data import validation

    config, wanted = data_arguments.config_of(arguments)
    if arguments.classes < 0:
        raise UserError("bad_option", f"--classes must be the number of classes, not {arguments.classes}")
    if arguments.json:
        check_new(arguments.json, arguments.overwrite, "--json")
    config.data.target = arguments.target
    config.model.head.num_classes = arguments.classes
    report = validation.check(config, wanted, arguments.workers)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.json, report.to_json())
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 1 if report.errors else 0
