"""Agreement and coverage on held-out people, and how much they vary with the people, from predictions of trained runs.

    python eval.py --workdir RUN --split validation --checkpoint best   # for each run
    python -m benchmarks.agreement RUN [RUN ...] [--splits 20] [--level 0.9] [--decode balanced]
    python -m benchmarks.agreement --new-people RUN [RUN ...]           # RUNs of benchmarks.new_people
    python -m benchmarks.agreement --streams RUN [RUN ...]

No model was trained on the people of the validation and test splits. ``--splits`` times, these people are divided at
random into two parts with as many people as the two splits. Each time, the output step is fitted and intervals are
calibrated on the first part, and both are tested on the second. With ``--new-people``, the people are those whom
``benchmarks.new_people`` drew, and the first part still has as many as the validation split of the study.

With ``--streams``, it prints instead how much of a score comes from each stream: the mean share of the frames in the
attribution of the test clips (``tramp_jax.report.attribution``).
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from tramp_jax import evaluation, experiment, metrics, run, training_data
from tramp_jax import output as outputs
from tramp_jax.checkpoint import BEST
from tramp_jax.data.datasets import TEST, VALIDATION
from tramp_jax.errors import UserError
from tramp_jax.report.attribution import Explainer
from tramp_jax.scoring.calibration import calibrate
from tramp_jax.scoring.members import load_member

_NOTE = (
    "± is the standard deviation over {} divisions of the same people, whose parts overlap: it is not the error of the "
    "mean, nor how much other people would differ."
)
_CHOSE = (
    " The validation people, who are in both parts, also chose the checkpoint, so these figures are slightly better "
    "than those of new people."
)
_SHOWN = ("spearman", "mae", "rmse", "icc_a1", "kappa", "within_one", "within_point")


def read(folder: pathlib.Path, split: str) -> evaluation.Written:
    """The predictions of the best checkpoint for a split's clips."""
    report = run.evaluation_folder(folder, split, BEST)
    try:
        return evaluation.read_predictions(report)
    except FileNotFoundError as error:
        command = f"python eval.py --workdir {folder} --split {split} --checkpoint {BEST}"
        raise UserError("missing_file", f"{report / run.PREDICTIONS}: no such file; make it with: {command}") from error


def resample(
    folder: pathlib.Path, splits: int, level: float, decode: str = "", parts: Sequence[str] = (VALIDATION, TEST)
) -> dict[str, list[float]]:
    """The figures on each random division of the people: {name: value for each}."""
    config = run.load_config(folder)
    config.output.decode = decode or config.output.decode
    data = training_data.load(folder, config)
    if data is None or data.scale is None or not data.ratings:
        raise UserError("not_a_run", f"{folder}: was trained by an earlier version; train it again")
    decoding = outputs.of_training(config, data.ratings, data.scale)
    written = [read(folder, part) for part in parts]
    raw, target = (np.concatenate([getattr(each, name) for each in written]) for name in ("raw", "target"))
    subjects = np.concatenate([each.subjects for each in written])
    people, count = np.unique(subjects), data.people[VALIDATION]
    if count >= len(people):
        cure = "test more people (--people of benchmarks.new_people)"
        raise UserError("too_few_people", f"{folder}: {len(people)} people, but more than {count} are needed; {cure}")
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
        ).tested(scores, fitted.spread(raw[~chosen]), target[~chosen], subjects[~chosen].tolist())
        found["coverage"].append(calibrated.coverage)
        found["width"].append(calibrated.width)
    return found


def share_of_frames(folder: pathlib.Path) -> np.ndarray:
    """For each test clip, the effect of the frames as a share of the effects of both streams, without their signs.

    Clips whose score no stream changes, such as still ones, are left out.
    """
    member = load_member(folder)
    explainer = Explainer(member.config, member.output)
    split = experiment.open_folds(member.config, folder).splits[member.fold][TEST]
    found = [explainer(member.variables, split[i]) for i in range(len(split))]
    parts = [[0.0 if part is None else part.sum() for part in (each.frames, each.trajectory)] for each in found]
    effects = np.abs(parts)
    effects = effects[effects.any(axis=1)]
    return effects[:, 0] / effects.sum(axis=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table with a row for each run: mean ± standard deviation over the divisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--new-people", action="store_true", help="RUNs are those of benchmarks.new_people")
    parser.add_argument("--streams", action="store_true", help="print the share of the frames in the attribution")
    parser.add_argument("--decode", default="", help="an output.decode to use instead of the run's")
    options = parser.parse_args(arguments)
    if options.streams:
        for folder in options.runs:
            shares = share_of_frames(folder)
            if not len(shares):
                sys.stdout.write(f"{folder.name}: no stream changes the score of any test clip\n")
                continue
            low, middle, high = np.quantile(shares, (0.25, 0.5, 0.75))
            line = f"{folder.name}: frames {np.mean(shares):.0%} of the attribution, mean of {len(shares)} test clips"
            sys.stdout.write(f"{line}; quartiles {low:.0%}, {middle:.0%}, {high:.0%}\n")
        return
    names = [*_SHOWN, "coverage", "width"]
    lines = [f"| run | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    parts = (TEST,) if options.new_people else (VALIDATION, TEST)
    for folder in options.runs:
        found = resample(folder, options.splits, options.level, options.decode, parts)
        cells = [f"{np.mean(found[name]):.3f} ± {np.std(found[name], ddof=1):.3f}" for name in names]
        lines.append(f"| {folder.name} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join([*lines, "", _NOTE.format(options.splits) + _CHOSE * (not options.new_people)]) + "\n")


if __name__ == "__main__":
    main()
