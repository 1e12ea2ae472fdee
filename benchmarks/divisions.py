"""A cross-validated model beside simple methods, over several random divisions of the same people into folds.

    python train.py --config configs/youtubepd.py --config.data.split_seed=S --config.seed=S --workdir RUN
    python -m benchmarks.divisions RUN [RUN ...]

S is another number for each RUN. Differences are means over the folds of all divisions. Their intervals are over
people: one who is drawn counts in every division, because divisions of the same people are not independent. The simple
methods keep no model, so they are fitted again, as in training.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from tramp_jax import cross_validation, experiment, run
from tramp_jax.cross_validation import MODEL, OF_SCORES, PAIRS, SIMPLE, Fold
from tramp_jax.metrics import REGRESSION


def read(folder: pathlib.Path) -> list[Fold]:
    """The held-out people of each fold of a run, with their scores by its model and by the simple methods."""
    config = run.load_config(folder)
    splits = experiment.open_folds(config, folder).splits
    return [cross_validation.compared(parts, run.fold_folder(folder, fold), config) for fold, parts in splits.items()]


def table(runs: Sequence[str], divisions: Sequence[Sequence[Fold]], metric: str, draws: int) -> list[str]:
    """The lines of a table: the metric of each method by run, and the differences, with intervals by ``draws``."""
    every = [fold for division in divisions for fold in division]
    lines = [f"| {metric} | {' | '.join(runs)} | all |", "|---" * (len(runs) + 2) + "|"]
    for name in (*SIMPLE, MODEL):
        rows = [[REGRESSION[metric](fold.scores[name], fold.target) for fold in part] for part in (*divisions, every)]
        lines.append(f"| {name} | {' | '.join(map(cross_validation.mean_and_spread, rows))} |")
    for one, other in PAIRS:
        found = [cross_validation.difference(part, metric, one, other, draws) for part in (*divisions, every)]
        lines.append(f"| {one} − {other} | {' | '.join(map(_text, found))} |")
    return [*lines, ""]


def _text(entry: dict) -> str:
    if entry["interval"] is None:
        return "undefined"
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(entry["value"], *entry["interval"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table for each metric: mean ± standard deviation over folds, differences with 95% intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args(arguments)
    divisions = [read(folder) for folder in options.runs]
    for metric in OF_SCORES:
        sys.stdout.write("\n".join(table([folder.name for folder in options.runs], divisions, metric, options.draws)))
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
