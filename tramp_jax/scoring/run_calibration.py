"""Calibrates trained runs on people that they were not trained on.

Models of one split are calibrated on its validation people and tested on its test people. The folds of one
cross-validation are calibrated together on all people, each scored by the fold that was not trained on them, as in the
CV+ of Barber et al., "Predictive Inference with the Jackknife+" (Annals of Statistics 2021). So the data of thirty
people give intervals, which a validation split of six cannot. CV+ combines an interval around each fold's model. Ours
lies around their mean, so the guarantee of CV+ does not hold for it.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from tramp_jax import output as outputs
from tramp_jax import run, split_file, training_data, usual_motion
from tramp_jax.data.datasets import TEST, TRAIN, VALIDATION
from tramp_jax.data.source import Split
from tramp_jax.data.validation import open_sound
from tramp_jax.errors import UserError
from tramp_jax.files import locked
from tramp_jax.progress import Progress
from tramp_jax.scoring.calibration import Calibration, calibrate
from tramp_jax.scoring.judges import Judge, make_judge
from tramp_jax.scoring.members import Member, load_members
from tramp_jax.scoring.scorer import CLIPS_AT_ONCE, combined
from tramp_jax.training_data import TrainingData


def calibrate_run(
    checkpoints: Sequence[pathlib.Path], *, which: str, level: float, data_root: str = ""
) -> tuple[Calibration, pathlib.Path]:
    """Calibrates the models of these runs together and writes the calibration into the first one's folder.

    A checkpoint of an older run that has no output gets one, fitted on the validation people.

    Args:
      checkpoints: folders of runs or of their folds. A run over several folds stands for all of them.
      which: "best", "last" or a step number.
      data_root: where the data is now, if it has moved.

    Returns:
      The calibration and the path of its file.

    Raises:
      UserError: bad_option; other_people if the runs have different splits; too_few_people; in_use if another program
        is calibrating them; or see ``load_members``.
    """
    if not 0 < level < 1:
        raise UserError("bad_option", f"--level is {level}; it must be between 0 and 1, such as 0.9")
    members = load_members(checkpoints, which)
    with locked(run.calibration_file(members[0].run, [member.id for member in members])):
        for member in members:
            member.config.data.root = data_root or member.config.data.root
        splits, data = _opened(members)
        folds = {member.fold for member in members}
        one_run = len({run.home(member.run).resolve() for member in members}) == 1
        crossed = one_run and None not in folds and 1 < len(folds) == len(members)
        found = (_across_folds if crossed else _on_validation)(members, splits, data, level)
        for member, split in zip(members, splits, strict=True):
            usual_motion.describe(member.config, split, member.run)
        return found, found.save(members[0].run)


def _opened(members: Sequence[Member]) -> tuple[list[dict[str, Split]], list[TrainingData]]:
    """The splits of every member, and the description of its training data."""
    splits: list[dict[str, Split]] = []
    data: list[TrainingData] = []
    for member in members:
        config = member.config
        dataset, _ = open_sound(config, run.home(member.run) / run.SKIPPED)
        splits.extend(split_file.splits_of(dataset, config, member.run).values())
        found = member.trained_on
        data.append(found or training_data.describe(splits[-1], dataset.facts, config.data.target))
    return splits, data


def _across_folds(
    members: Sequence[Member], splits: Sequence[dict[str, Split]], data: Sequence[TrainingData], level: float
) -> Calibration:
    """Calibrates on the test people of all folds, and tests each fold's people by a calibration on the others."""
    parts = []  # (scores, spreads, targets, subjects) of each fold's people
    for member, split in zip(members, splits, strict=True):
        raw, target = _judged([make_judge(member)], split[TEST])
        people = [info.subject for info in split[TEST].infos]
        parts.append((member.output.score(raw[0]), member.output.spread(raw[0]), target, people))
    ratings = outputs.histogram([info.score for split in splits for info in split[TEST].infos])

    def calibrated(folds: Sequence[int], described: Sequence[TrainingData]) -> Calibration:
        scores, spreads, targets, subjects = (np.concatenate([parts[k][i] for k in folds]) for i in range(4))
        scale = training_data.joint_scale(described)
        return calibrate(
            scores,
            spreads,
            targets,
            subjects.tolist(),
            level=level,
            models=[member.id for member in members],
            scale=(scale.low, scale.high),
            ratings=[rating for rating, _ in ratings],
        )

    every = range(len(parts))
    found = calibrated(every, data)
    try:
        tests = [calibrated([k for k in every if k != i], [data[i]]).tested(*parts[i]) for i in every]
    except UserError as error:
        if error.kind != "too_few_people":
            raise
        return found  # one fold less leaves too few people, so there is no test
    people_in = [test.test_subjects for test in tests]
    return dataclasses.replace(
        found,
        coverage=float(np.average([test.coverage for test in tests], weights=people_in)),
        width=float(np.average([test.width for test in tests], weights=people_in)),
        test_clips=sum(test.test_clips for test in tests),
        test_subjects=sum(people_in),
    )


def _on_validation(
    members: list[Member], splits: Sequence[dict[str, Split]], data: Sequence[TrainingData], level: float
) -> Calibration:
    """Calibrates on the validation people of the common split, and tests on its test people.

    A checkpoint without a fitted output gets one: in ``members``, and, if nothing is refused, in the folder of its run.
    """
    # The ensemble must not be calibrated on a clip that one of its members was trained on.
    for name in (VALIDATION, TEST):
        people = [{info.subject for info in split[name].infos} for split in splits]
        if any(each != people[0] for each in people):
            raise UserError(
                "other_people",
                f"the {name} people of these runs differ, so the runs cannot be calibrated together; train them on the "
                "same split (data.split_seed, data.fold) and with different --config.seed, or name all folds of a run",
            )
    judges = [make_judge(member) for member in members]
    split = splits[0]
    scale = training_data.joint_scale(data)
    ratings = outputs.histogram([info.score for info in split[TRAIN].infos])
    subjects = [info.subject for info in split[VALIDATION].infos]
    raw, target = _judged(judges, split[VALIDATION])
    held_out, new = [], []
    for i, member in enumerate(members):
        if outputs.load(member.run, member.step) is None:
            decoding = outputs.of_training(member.config, ratings, scale)
            fitted = decoding.fitted(raw[i], target, subjects, member.config.output.fit)
            members[i] = dataclasses.replace(member, output=fitted)
            new.append(members[i])
        held_out.append(outputs.held_out(members[i].output, raw[i], target, subjects))
    found = calibrate(
        *combined(*np.stack(held_out, axis=1)),
        target,
        subjects,
        level=level,
        models=[member.id for member in members],
        scale=(scale.low, scale.high),
        ratings=[rating for rating, _ in ratings],
    )
    raw, target = _judged(judges, split[TEST])
    scored = [(member.output.score(row), member.output.spread(row)) for member, row in zip(members, raw, strict=True)]
    tested = [info.subject for info in split[TEST].infos]
    for member in new:
        member.output.save(member.run, member.step)
    return found.tested(*combined(*np.stack(scored, axis=1)), target, tested)


def _judged(judges: Sequence[Judge], split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Raw values (members, N) and targets (N,) of the clips of a split."""
    raw = np.zeros((len(judges), len(split)))
    with Progress(len(split), "clip") as bar:
        for first in range(0, len(split), CLIPS_AT_ONCE):
            clips = [split[i] for i in range(first, min(first + CLIPS_AT_ONCE, len(split)))]
            raw[:, first : first + len(clips)] = [judge.many(clips) for judge in judges]
            bar.update(len(clips))
    return raw, np.array([info.score for info in split.infos])
