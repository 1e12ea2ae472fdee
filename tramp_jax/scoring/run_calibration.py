"""The calibration of a trained run by its own validation split, and its test on the test split."""

import pathlib
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from tramp_jax import run, training_data
from tramp_jax.data import datasets
from tramp_jax.data.clips import Split
from tramp_jax.data.datasets import TEST, VALIDATION
from tramp_jax.data.validation import open_sound
from tramp_jax.errors import UserError
from tramp_jax.scoring.calibration import Calibration, calibrate
from tramp_jax.scoring.judges import Judge, make_judge
from tramp_jax.scoring.members import load_member
from tramp_jax.scoring.rating_scale import scale_of
from tramp_jax.scoring.scorer import CLIPS_AT_ONCE, spread_of


def calibrate_run(
    checkpoints: Sequence[pathlib.Path], *, which: str, level: float, draws: int, data_root: str = ""
) -> tuple[Calibration, pathlib.Path]:
    """Calibrates the models of these runs together and writes the calibration into the first one's folder.

    Args:
      checkpoints: folders of runs, or of folds of them.
      which: "best", "last" or a step number.
      level: share of clips that intervals are to cover, between 0 and 1.
      draws: windows of a clip that are scored with dropout.
      data_root: where the data is now, if it has moved.

    Returns:
      The calibration and its file.

    Raises:
      UserError: impossible options, or models that were not trained on the same people.
    """
    if not 0 < level < 1:
        raise UserError("bad_option", f"--level is {level}; it must lie between 0 and 1")
    if draws < 2:
        raise UserError("bad_option", f"--draws is {draws}; a spread needs at least 2")
    members = [load_member(path, which) for path in checkpoints]
    splits = []
    for member in members:
        config = member.config.copy_and_resolve_references()
        if data_root:
            with config.unlocked():
                config.data.root = data_root
        dataset, _ = open_sound(config, run.home(member.run) / run.SKIPPED)
        splits.append(datasets.split(dataset, config, member.fold))
    # A clip that one member was trained on must not tell how sure the ensemble is.
    for name in (VALIDATION, TEST):
        people = [{info.subject for info in split[name].infos} for split in splits]
        if any(each != people[0] for each in people):
            raise UserError(
                "bad_option",
                f"the {name} people of these runs differ, so that they cannot be calibrated together; train them on "
                "the same split (data.split_seed, data.fold) with other values of --config.seed",
            )
    judges = [make_judge(member, draws) for member in members]
    split = splits[0]
    data = members[0].trained_on or training_data.describe(split)
    scale = scale_of(members[0].config, (data.low, data.high))
    found = calibrate(
        *_judged(judges, split[VALIDATION]),
        [info.subject for info in split[VALIDATION].infos],
        level=level,
        draws=draws,
        models=[member.id for member in members],
        scale=(scale.low, scale.high),
    )
    found = found.tested(*_judged(judges, split[TEST]))
    return found, found.save(members[0].run)


def _judged(judges: Sequence[Judge], split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, spreads and targets (N,) of the clips of a split."""
    rows = []
    with tqdm(total=len(split), unit="clip", disable=None) as bar:
        for first in range(0, len(split), CLIPS_AT_ONCE):
            clips = [split[i] for i in range(first, min(first + CLIPS_AT_ONCE, len(split)))]
            for clip, *outcomes in zip(clips, *(judge.many(clips) for judge in judges), strict=True):
                scores = np.array([score for score, _ in outcomes])
                spread = spread_of(scores, np.stack([drawn for _, drawn in outcomes]))
                rows.append((scores.mean(), spread, clip.info.score))
            bar.update(len(clips))
    scores, spreads, targets = np.array(rows).T
    return scores, spreads, targets
