"""Tests the models of a finished study on more drawn people, because 60 test people hide most differences.

    tramp-jax study two_streams --seeds 5 --out results/two_streams
    python -m benchmarks.new_people two_streams results/two_streams --seeds 5 --people 300 --out results/new_people

The people are drawn anew, so no model has seen them. Nothing is trained, and the validation people of the study have
selected the checkpoints. The table is that of a study (docs/studies.md).
"""

import argparse
import pathlib
import shutil
import sys
from collections.abc import Sequence

from tramp_jax import evaluation, run, sharding
from tramp_jax.checkpoint import BEST
from tramp_jax.data import datasets
from tramp_jax.data.source import Split
from tramp_jax.scoring.members import load_member
from tramp_jax.studies import plan, table

_SYNTHETIC_SEED = 1000  # recipes use 0 and 1


def test(study_run: plan.Run, folder: pathlib.Path, people: int) -> None:
    """Writes the predictions of a study's run on new people into ``folder``, as of a run of the same study."""
    member, mesh = load_member(study_run.folder), sharding.data_mesh()
    config = member.config.copy_and_resolve_references().unlock()
    config.data.update(synthetic_seed=_SYNTHETIC_SEED, num_subjects=people)
    config.loss.landmarks = 0.0  # its errors are not compared
    source = datasets.open_dataset(config).source
    split, predictor = Split(source, range(len(source))), evaluation.build_predictor(config, mesh)
    found = evaluation.predict(predictor, member.variables, split, config, mesh, member.output)
    evaluation.write_report(found, run.evaluation_folder(folder, datasets.TEST, BEST), config, f"{people} new people")
    shutil.copy(study_run.folder / run.CONFIG, folder / run.CONFIG)
    shutil.copy(study_run.outcome, folder.with_suffix(study_run.outcome.suffix))


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the table of the study on new people, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="its name or file")
    parser.add_argument("folder", type=pathlib.Path, help="the --out of the study")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--people", type=int, default=300)
    options = parser.parse_args(arguments)
    study = plan.load(options.study, "synthetic")
    ours, theirs = (plan.runs(study, "", out, options.seeds) for out in (options.out, options.folder))
    for new, old in sorted(zip(ours, theirs, strict=True), key=lambda pair: pair[0].row.name):  # a row's faces are kept
        sys.stderr.write(f"{old}\n")
        test(old, new.folder, options.people)
    sys.stdout.write(table.write(study, ours, options.out, table.DRAWS))


if __name__ == "__main__":
    main()
