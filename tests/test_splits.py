import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from configs import folder as recipe
from tests.published_layouts import write_folder
from tests.raises import user_error
from tests.tiny_recipe import shrink
from tramp_jax import experiment, run, split_file
from tramp_jax.data import splits
from tramp_jax.data.clips import ClipInfo
from tramp_jax.scoring import run_calibration

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def clips(num_subjects: int = 23, repetitions: int = 3, seed: int = 0) -> list[ClipInfo]:
    """Clips whose scores differ more between subjects than within."""
    rng = np.random.default_rng(seed)
    return [
        ClipInfo(f"s{s}-{r}", f"s{s}", "smile", float(level + rng.normal(0, 0.1)), 50)
        for s, level in enumerate(rng.uniform(0, 4, num_subjects))
        for r in range(repetitions)
    ]


def mean_score(infos: list[ClipInfo], subjects: frozenset[str]) -> float:
    return float(np.mean([info.score for info in infos if info.subject in subjects]))


@pytest.mark.parametrize("k", [2, 3, 5, 23])
def test_each_subject_is_tested_exactly_once(k):
    infos = clips()
    everyone = {info.subject for info in infos}
    folds = splits.k_fold(infos, k, seed=0)
    assert len(folds) == k
    assert sorted(s for test in folds for s in test) == sorted(everyone)
    sizes = [len(test) for test in folds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_folds_have_similar_scores(seed):
    infos = clips(num_subjects=60)
    means = [mean_score(infos, test) for test in splits.k_fold(infos, 5, seed)]
    # Twelve subjects with scores uniform on 0-4, chosen without regard to score, would spread by about 0.33.
    assert np.std(means) < 0.12


def test_rare_positives_reach_every_fold():
    infos = [ClipInfo(str(i), f"s{i}", "rest", float(i < 10), 10) for i in range(50)]
    for test in splits.k_fold(infos, 5, seed=3):
        assert sum(info.score for info in infos if info.subject in test) == 2


@pytest.mark.parametrize("split", [lambda i, s: splits.k_fold(i, 4, s), lambda i, s: splits.holdout(i, SHARES, s)])
def test_split_depends_on_seed_and_not_on_the_order_of_clips(split):
    infos = [dataclasses.replace(info, score=round(info.score)) for info in clips()]  # with ties
    shuffled = [infos[i] for i in np.random.default_rng(1).permutation(len(infos))]
    assert split(infos, 7) == split(shuffled, 7)
    assert split(infos, 7) != split(infos, 8)


def test_seed_also_matters_when_all_scores_are_equal():
    infos = [ClipInfo(str(i), f"s{i}", "rest", 0.0, 10) for i in range(20)]
    assert splits.k_fold(infos, 4, 0) != splits.k_fold(infos, 4, 1)


@pytest.mark.parametrize("num_subjects", [3, 4, 10, 41])
def test_holdout_covers_everyone_once_in_the_asked_proportions(num_subjects):
    infos = clips(num_subjects)
    parts = splits.holdout(infos, SHARES, seed=1)
    assert list(parts) == list(SHARES)
    assert sorted(s for part in parts.values() for s in part) == sorted({info.subject for info in infos})
    for name, share in SHARES.items():
        assert abs(len(parts[name]) - share * num_subjects) <= 1
        assert parts[name]


def test_a_small_part_still_gets_a_subject():
    assert len(splits.holdout(clips(10), {"train": 0.99, "test": 0.01}, seed=0)["test"]) == 1


@pytest.mark.parametrize("seed", range(5))
def test_holdout_parts_have_similar_scores(seed):
    infos = clips(num_subjects=60)
    means = [mean_score(infos, part) for part in splits.holdout(infos, SHARES, seed).values()]
    assert np.ptp(means) < 0.4  # unstratified, about 0.7


def test_every_subject_can_be_held_out():
    infos = clips()
    held_out = {s for seed in range(40) for s in splits.holdout(infos, SHARES, seed)["test"]}
    assert held_out == {info.subject for info in infos}


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5, "test": 0.4}, {"train": 1.0, "test": 0.0}, {"a": 2, "b": -1}])
def test_impossible_fractions_are_refused(fractions):
    with user_error("bad_option"):
        splits.holdout(clips(), fractions, seed=0)


def test_too_few_subjects_are_refused():
    with user_error("too_few_subjects", 2, 3):
        splits.holdout(clips(2), SHARES, seed=0)
    with user_error("too_few_subjects", 4, 5):
        splits.k_fold(clips(4), 5, seed=0)
    with user_error("too_few_subjects"):
        splits.k_fold(clips(4), 1, seed=0)


def test_a_score_that_is_not_a_number_is_refused():
    infos = [*clips(), ClipInfo("broken", "s0", "smile", float("nan"), 5)]
    with user_error("bad_score", "broken", "nan"):
        splits.k_fold(infos, 3, seed=0)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A function (folds) -> (list, run's folder, train(resume), used), which trains on the folder of clips.

    ``used`` are the people of each part, as training, evaluation and calibration see them.
    """
    write_folder(tmp_path / "data", 20, num_frames=2)
    used = {}

    def people(parts):
        return {name: {info.subject for info in part.infos} for name, part in parts.items()}

    def fit(config, parts, folder, *_):
        (folder / run.CHECKPOINTS).mkdir(exist_ok=True)
        used["train", run.fold_of(folder)] = people(parts)

    def evaluate(config, parts, facts, folder, *_):
        used["evaluate", run.fold_of(folder)] = people(parts)
        return ""

    def load_members(folders, which):
        found = [SimpleNamespace(run=f, fold=run.fold_of(f), config=run.load_config(f)) for f in run.models_in(folders)]
        return [SimpleNamespace(**vars(each), id=str(each.fold), trained_on=None) for each in found]

    def calibrated(members, splits, *_):
        used.update({("calibrate", each.fold): people(parts) for each, parts in zip(members, splits, strict=True)})
        return SimpleNamespace(save=lambda folder: folder)

    monkeypatch.setattr(experiment.trainer, "fit", fit)
    monkeypatch.setattr(experiment, "evaluate_split", evaluate)
    monkeypatch.setattr(run_calibration, "load_members", load_members)
    for name in ("_across_folds", "_on_validation"):
        monkeypatch.setattr(run_calibration, name, calibrated)

    def of(folds):
        config = shrink(recipe.get_config(), tmp_path / "data", streams="trajectory").unlock()
        config.data.update(num_folds=folds, validation_fraction=0.3)

        def train(resume, expression=config.data.expression):
            config.data.expression = expression
            experiment.train(None if resume else config, tmp_path / "run", resume=resume)

        return tmp_path / "data" / "clips.csv", tmp_path / "run", train, used

    monkeypatch.setattr(experiment.usual_motion, "describe", lambda *_: None)
    monkeypatch.setattr("tramp_jax.cross_validation.summarise", lambda *_: [])
    return of


def _use(folder, train):
    """Does all that reads the split of a run again."""
    experiment.evaluate(folder, "last", "test")
    run_calibration.calibrate_run([folder], which="best", level=0.9)
    train(resume=True)


@pytest.mark.parametrize("folds", [0, 3])
def test_a_run_keeps_its_split_when_the_list_changes(runs, folds, capsys):
    table, folder, train, used = runs(folds)
    train(resume=False)
    before = {fold: parts for (what, fold), parts in used.items() if what == "train"}
    assert len(before) == max(folds, 1)
    text = table.read_text()
    lowest = next(line for line in text.splitlines() if ",s000," in line)
    for changed in (
        text.replace(lowest, lowest.rpartition(",")[0] + ",99.5"),
        text + lowest.replace("s000", "new") + "\n",
    ):
        used.clear()
        table.write_text(changed)
        shutil.copytree(table.parent / "clips/s000", table.parent / "clips/new", dirs_exist_ok=True)
        _use(folder, train)
        assert {what for what, _ in used} == {"train", "evaluate", "calibrate"}
        for (_, fold), parts in used.items():
            assert parts == before[fold]
    assert capsys.readouterr().err.count(" new ") == 1
    table.write_text(text.replace(lowest + "\n", ""))
    for use in (experiment.evaluate, lambda *_: train(resume=True)):
        with user_error("other_people", folder / run.SPLIT, "s000"):
            use(folder, "last", "test")
    (folder / run.SPLIT).unlink()  # as in runs of earlier versions
    _use(folder, train)
    assert f"warning: {folder / run.SPLIT}" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["_", "0x", "-1", "1.5", "\u00b2", "9" * 5000])
def test_a_split_file_with_a_damaged_fold_is_refused(runs, key):
    _, folder, train, _ = runs(3)
    train(resume=False)
    path = folder / run.SPLIT
    kept = json.loads(path.read_text())["folds"]
    path.write_text(json.dumps({"folds": kept | {key: kept.pop("0")}}))
    with user_error("damaged_file", path):
        experiment.evaluate(folder, "last", "test")


def test_a_part_without_clips_is_refused_before_training(runs):
    table, folder, train, _ = runs(0)
    header, *rows = table.read_text().splitlines()
    rows = [f"{row},{'train' if number % 4 else 'test'}" for number, row in enumerate(rows)]
    rows = [row.replace(",smile,", ",frown,") if row.endswith("test") else row for row in rows]
    table.write_text("\n".join([f"{header},split", *rows, ""]))
    with user_error("empty_part", "test", "smile"):
        train(resume=False, expression="smile")
    assert not folder.exists()


def test_ratings_that_changed_after_training_give_a_warning(runs, capsys):
    table, _, train, used = runs(0)
    train(resume=False)
    train(resume=True)
    assert "changed since" not in capsys.readouterr().out
    text = table.read_text()
    trained = [line for line in text.splitlines()[1:] if line.split(",")[1] in used["train", None]["train"]]
    first = trained[0]
    other = next(line for line in trained if line[-1] != first[-1])
    exchanged = text.replace(first, first[:-1] + other[-1]).replace(other, other[:-1] + first[-1])
    for changed in (text.replace(",smile,1", ",smile,2"), text, exchanged):
        table.write_text(changed)
        for _ in range(2):
            train(resume=True)
            assert "changed since" in capsys.readouterr().out


def test_an_evaluation_on_another_scale_gives_a_warning(runs, capsys):
    table, folder, train, _ = runs(0)
    train(resume=False)
    capsys.readouterr()
    experiment.evaluate(folder, "last", "test")
    assert "warning" not in capsys.readouterr().out
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *(f"{row}5" for row in rows), ""]))
    experiment.evaluate(folder, "last", "test")
    assert "4 of 4 test ratings lie outside" in capsys.readouterr().out


@pytest.mark.parametrize("folds", [0, 3])
def test_testing_people_who_trained_the_initial_weights_gives_a_warning(runs, folds, capsys):
    _, folder, train, used = runs(folds)
    train(resume=False)
    config = run.load_config(folder).unlock()
    config.init.trajectory = str(folder / "fold_1" if folds else folder)
    config.data.fold = 1 if folds else -1
    for seed in (0, 1):
        config.data.split_seed = seed
        split_file._say_once.cache_clear()
        folded = experiment.open_folds(config).splits
        tested = {info.subject for parts in folded.values() for info in parts["test"].infos}
        before = used["train", 1 if folds else None]
        known = tested & (before["train"] | before["validation"])
        assert bool(known) == bool(seed)
        err = capsys.readouterr().err
        assert ("trained the initial weights" in err) == bool(known)
        assert all(name in err for name in sorted(known)[:5])
