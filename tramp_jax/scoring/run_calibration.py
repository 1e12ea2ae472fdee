"""Calibrates trained runs on their validation split, and tests the calibration on their test split."""

import pathlib
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from tramp_jax import run, training_data
from tramp_jax.data import datasets
from tramp_jax.data.datasets import TEST, VALIDATION
from tramp_jax.data.source import Split
from tramp_jax.data.validation import open_sound
from tramp_jax.errors import UserError
from tramp_jax.scoring.calibration import Calibration, calibrate
from tramp_jax.scoring.judges import Judge, make_judge
from tramp_jax.scoring.members import load_member
from tramp_jax.scoring.scorer import CLIPS_AT_ONCE, spread_of


def calibrate_run(
    checkpoints: Sequence[pathlib.Path], *, which: str, level: float, draws: int, data_root: str = ""
) -> tuple[Calibration, pathlib.Path]:
    """Calibrates the models of these runs together and writes the calibration into the first one's folder.

    Args:
      checkpoints: folders of runs or of their folds.
      which: "best", "last" or a step number.
      level: share of clips that intervals should cover, between 0 and 1.
      draws: number of windows of a clip to score with dropout.
      data_root: where the data is now, if it has moved.

    Returns:
      The calibration and the path of its file.

    Raises:
      UserError: bad_option; other_people, if the runs have different splits; too_few_clips; or see ``load_member``.
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
    # The ensemble must not be calibrated on a clip that one of its members was trained on.
    for name in (VALIDATION, TEST):
        people = [{info.subject for info in split[name].infos} for split in splits]
        if any(each != people[0] for each in people):
            raise UserError(
                "other_people",
                f"the {name} people of these runs differ, so the runs cannot be calibrated together; train them on the "
                "same split (data.split_seed, data.fold) and with different --config.seed",
            )
    judges = [make_judge(member, draws) for member in members]
    split = splits[0]
    data = members[0].trained_on or training_data.describe(split, dataset.facts, config.data.target)
    assert data.scale is not None
    found = calibrate(
        *_judged(judges, split[VALIDATION]),
        [info.subject for info in split[VALIDATION].infos],
        level=level,
        draws=draws,
        models=[member.id for member in members],
        scale=(data.scale.low, data.scale.high),
    )
    found = found.tested(*_judged(judges, split[TEST]))
    return found, found.save(members[0].run)


def _judged(judges: Sequence[Judge], split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, spreads and targets, each (N,), of the clips of a split."""
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
