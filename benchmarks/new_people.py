"""Tests the models of a finished study on more drawn people, because 60 test people hide most differences.

    tramp-jax study two_streams --seeds 5 --out results/two_streams
    python -m benchmarks.new_people two_streams results/two_streams --seeds 5 --people 300 --out results/new_people

The people come from another seed, so no model has seen them. Nothing is trained again: the checkpoints are those that
the validation people of the study selected. Only simple methods, which keep no model, are fitted again, to the people
of the study. The table is that of a study (docs/studies.md).
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
from tramp_jax.errors import UserError
from tramp_jax.scoring.members import load_member
from tramp_jax.studies import plan, runner, simple, table

_SYNTHETIC_SEED = 1000  # recipes use 0 and 1


def test(old: plan.Run, new: plan.Run, people: int) -> None:
    """Tests a run of a study on new people, and writes their predictions as those of ``new``, which is then done."""
    config = old.config.copy_and_resolve_references().unlock()
    config.data.update(synthetic_seed=_SYNTHETIC_SEED, num_subjects=people)
    config.loss.landmarks = 0.0  # its errors are not compared
    if old.row.method:
        config.model.streams = "trajectory"  # the methods read no frames, so none are drawn
    source = datasets.open_dataset(config).source
    split = Split(source, range(len(source)))
    if old.row.method:
        simple.fit(new.config, new.folder, new.row.method, split)
    else:
        member, mesh = load_member(old.folder), sharding.data_mesh()
        predictor = evaluation.build_predictor(config, mesh)
        found = evaluation.predict(predictor, member.variables, split, config, mesh, member.output)
        folder = run.evaluation_folder(new.folder, datasets.TEST, BEST)
        evaluation.write_report(found, folder, config, f"{people} new people")
        for name in (run.CONFIG, run.DATA):
            shutil.copy(old.folder / name, new.folder / name)
    shutil.copy(old.outcome, new.outcome)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the table of the study on new people, and prints it.

    Raises:
      UserError: unfinished_run; changed_options if a run of the study was started with other options.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="its name or file")
    parser.add_argument("folder", type=pathlib.Path, help="the --out of the study")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--people", type=int, default=300)
    parser.add_argument("--data", default="synthetic", help="the --data of the study")
    options = parser.parse_args(arguments)
    study = plan.load(options.study, options.data)
    ours, theirs = (plan.runs(study, "", out, options.seeds) for out in (options.out, options.folder))
    unfinished = [old.folder for old in theirs if not runner.is_done(old)]
    if unfinished:
        raise UserError("unfinished_run", f"{unfinished[0]}: this run has not succeeded; run the study again first")
    # One row after the other: what a row draws is kept for its next seed.
    for new, old in sorted(zip(ours, theirs, strict=True), key=lambda pair: pair[0].row.name):
        sys.stderr.write(f"{old}\n")
        test(old, new, options.people)
    sys.stdout.write(table.write(study, ours, options.out, table.DRAWS))


if __name__ == "__main__":
    main()
