"""``tramp-jax study``: trains the rows of a table that compares models, and writes the table."""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tramp_jax import shards
from tramp_jax.data.readers import BUILT_IN
from tramp_jax.errors import UserError
from tramp_jax.files import check_place, expanded

if TYPE_CHECKING:
    from tramp_jax.studies.plan import Run, Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a file in studies/, such as fusion, or the path of a .toml file")
    parser.add_argument(
        "--data",
        default=BUILT_IN,
        metavar="RECIPE",
        help="a recipe in configs/, such as pfed5 or folder:few (default: %(default)s)",
    )
    parser.add_argument("--root", default="", metavar="DIR", help="folder of the data, if the recipe needs one")
    parser.add_argument("--out", type=expanded, metavar="DIR", help="folder of the study; runs in it are continued")
    parser.add_argument("--seeds", type=int, metavar="N", help="train every row N times (default: 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="tiny settings, to check that everything runs")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs, their steps and their GPU hours")
    parser.add_argument(
        "--tflops",
        type=float,
        metavar="N",
        help="speed of the device in training, in TFLOP/s, for the hours of --dry-run (default: assumed for an H100)",
    )
    shards.add_arguments(parser, "no table")


def run(arguments: argparse.Namespace) -> int:
    import jax

    from tramp_jax.cli import scripts
    from tramp_jax.studies import plan, runner, table

    shard = shards.chosen(arguments)
    usual_seeds = 1 if arguments.quick else 3
    seeds = usual_seeds if arguments.seeds is None else arguments.seeds
    if arguments.tflops is not None and arguments.tflops <= 0:
        raise UserError("bad_option", f"--tflops must be above 0, not {arguments.tflops:g}")
    if seeds < 1:
        raise UserError("bad_option", f"--seeds must be at least 1, not {seeds}")
    if not (arguments.out or arguments.dry_run):
        raise UserError("missing_option", "--out is missing; name the folder of the study, such as --out studies_out/x")
    if arguments.out:
        check_place(arguments.out)
    study = plan.load(arguments.name, arguments.data, arguments.quick)
    out = arguments.out or pathlib.Path("OUT")
    runs = plan.runs(study, arguments.root, out, seeds)
    if arguments.dry_run:
        return _dry_run(study, runs, arguments.tflops)
    if not arguments.collect:
        scripts.quick_start()
        if arguments.quick:  # optimising programs that run only a few times takes longer than it saves
            jax.config.update("jax_disable_most_optimizations", True)
        runner.execute(shard.take(runs) if shard else runs)
    draws = 0 if arguments.quick else table.DRAWS
    if not shard:
        sys.stdout.write(f"{table.write(study, runs, out, draws)}\n{out / table.MARKDOWN}\n")
    return 0


def _dry_run(study: "Study", runs: "Sequence[Run]", tflops: float | None) -> int:
    """Prints what a study costs. If the data is missing, estimates use the published number of clips."""
    from tramp_jax.studies import cost

    seeds = len({each.seed for each in runs})
    sys.stdout.write(f"{study.title}, on {study.data}; each of these {seeds} times:\n")
    steps, hours = 0, 0.0
    for each in runs[: len(runs) // seeds]:  # the runs with the first seed
        what = f"{each.row.name}, {each.column}" if each.column else each.row.name
        if each.row.method:
            sys.stdout.write(f"  {what}: {each.row.method}\n")
            continue
        found = cost.estimate(each.config, each.column, study.expected_clips, tflops)
        size = f"{found.clips} clips, {found.steps:,} steps" if found.steps else "size unknown without --root"
        sys.stdout.write(f"  {what}: {size}, {found.gflop:.3g} GFLOP a clip, {found.hours:.2g} h\n")
        steps, hours = steps + seeds * found.steps, hours + seeds * found.hours
    speed = f"{tflops:g} TFLOP/s in training (--tflops)" if tflops else cost.ASSUMED
    total = f"{len(runs)} runs, {steps:,} steps, {hours:.3g} hours"
    sys.stdout.write(f"{total} without evaluation and reading, at {speed}\n")
    return 0
