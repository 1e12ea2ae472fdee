"""Agreement and coverage on held-out people: how much they vary over people, from the predictions of trained runs.

    python eval.py --workdir RUN --split validation --checkpoint best   # for each run
    python -m benchmarks.agreement RUN [RUN ...] [--splits 20] [--level 0.9]

The people of the validation and test splits, whom no model was trained on, are divided at random into as many to
calibrate on and to test on as the run has, ``--splits`` times. Each time the output step is fitted, and intervals are
calibrated, on the one part, and both are tested on the other. The validation people also chose the checkpoint, so
figures on them are slightly optimistic.
"""

import argparse
import csv
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from tramp_jax import metrics, run, training_data
from tramp_jax import output as outputs
from tramp_jax.checkpoint import BEST
from tramp_jax.data.datasets import TEST, VALIDATION
from tramp_jax.errors import UserError
from tramp_jax.scoring.calibration import calibrate

_SHOWN = ("spearman", "mae", "rmse", "icc_a1", "kappa", "within_one")


def read(folder: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Raw values, targets and subjects of a split's clips, by the best checkpoint."""
    path = run.evaluation_folder(folder, split, BEST) / run.PREDICTIONS
    if not path.is_file():
        command = f"python eval.py --workdir {folder} --split {split} --checkpoint {BEST}"
        raise UserError("missing_file", f"{path}: no such file; make it with: {command}")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return (
        np.array([float(row["raw"]) for row in rows]),
        np.array([float(row["target"]) for row in rows]),
        [row["subject"] for row in rows],
    )


def resample(folder: pathlib.Path, splits: int, level: float) -> dict[str, list[float]]:
    """The figures on each random division of the people: {name: value for each}."""
    config = run.load_config(folder)
    data = training_data.load(folder, config)
    if data is None or data.scale is None or not data.ratings:
        raise UserError("not_a_run", f"{folder}: was trained by an earlier version; train it again")
    decoding = outputs.of_training(config, data.ratings, data.scale)
    parts = [read(folder, split) for split in (VALIDATION, TEST)]
    raw, target = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    subjects = np.array(parts[0][2] + parts[1][2])
    people, count = np.unique(subjects), len(set(parts[0][2]))
    found: dict[str, list[float]] = {name: [] for name in (*_SHOWN, "coverage", "width")}
    for seed in range(splits):
        chosen = np.isin(subjects, np.random.default_rng(seed).permutation(people)[:count])
        fitted = decoding.fitted(raw[chosen], target[chosen], subjects[chosen].tolist(), config.output.fit)
        scores = fitted.score(raw[~chosen])
        for name in _SHOWN:
            found[name].append(metrics.REGRESSION[name](scores, target[~chosen]))
        scale = data.scale.low, data.scale.high
        held_out = outputs.held_out(fitted, raw[chosen], target[chosen], subjects[chosen].tolist())
        calibrated = calibrate(
            *held_out, target[chosen], subjects[chosen].tolist(), level=level, models=[""], scale=scale
        ).tested(scores, fitted.spread(raw[~chosen]), target[~chosen])
        assert calibrated.coverage is not None
        assert calibrated.width is not None
        found["coverage"].append(calibrated.coverage)
        found["width"].append(calibrated.width)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table with a row for each run: mean ± standard deviation over the divisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--level", type=float, default=0.9)
    options = parser.parse_args(arguments)
    names = [*_SHOWN, "coverage", "width"]
    lines = [f"| run | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for folder in options.runs:
        found = resample(folder, options.splits, options.level)
        cells = [f"{np.mean(found[name]):.3f} ± {np.std(found[name], ddof=1):.3f}" for name in names]
        lines.append(f"| {folder.name} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
