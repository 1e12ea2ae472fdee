"""Every data set from its published layout to its report by the commands that a user types."""

import contextlib
import json

import pytest

from configs import dfew_rgb, dfew_trajectory, folder, neuroface, pfed5
from tests import published_layouts
from tests.linear import linear_model
from tests.published_layouts import as_workbook
from tests.tiny_recipe import shrink
from tramp_jax import cli, experiment, initial_weights
from tramp_jax.data.readers.neuroface_lists import FOLDS


def _pfed5(root):
    published_layouts.write_pfed5(root, 6, 4, ("smile", "frown"))
    config = shrink(pfed5.get_config("smile"), root, streams="trajectory")
    config.data.expression = ""  # both, so that there is a mean over expressions
    return [config]


def _neuroface(root):
    people = [person for fold in FOLDS for person in sorted(fold)[:4]]
    published_layouts.write_neuroface(root, people, ("OPEN", "BROW"), (5, 4))
    as_workbook(root / "ratings.csv")
    config = shrink(neuroface.get_config("OPEN,1"), root, streams="trajectory")
    config.data.expression = ""
    classes = shrink(neuroface.get_config("classification"), root, streams="trajectory")
    return [config, classes]


def _dfew(root):
    published_layouts.write_dfew(root, 17, 6, num_frames=17)
    return [shrink(dfew_trajectory.get_config(), root), shrink(dfew_rgb.get_config(), root)]


def _folder(root):
    published_layouts.write_folder(root, 13, num_test_subjects=3)
    return [shrink(folder.get_config(), root, streams="trajectory")]


LAYOUTS = {"pfed5": _pfed5, "neuroface": _neuroface, "dfew": _dfew, "folder": _folder}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "dfew")) for name in LAYOUTS])
def test_from_the_published_layout_to_the_report(name, tmp_path, capsys):
    """With a linear model, except that DFEW trains both encoders, from which PFED5 starts."""
    root, packed = tmp_path / "data", tmp_path / "packed"
    configs = LAYOUTS[name](root)
    assert cli.main(["validate", "--dataset", name, "--root", str(root)]) == 0
    assert cli.main(["pack", "--dataset", name, "--root", str(root), "--out", str(packed)]) == 0
    assert cli.main(["validate", "--root", str(packed)]) == 0
    for number, config in enumerate(configs):
        config.data.root = str(packed)
        config.train.epochs = 2
        config.evaluation.bootstrap = 20
        run = tmp_path / f"run{number}"
        capsys.readouterr()
        with contextlib.nullcontext() if name == "dfew" else linear_model():
            experiment.train(config, run)
            assert "epoch 2/2" in capsys.readouterr().out
            experiment.evaluate(run, "last", "test")
        told = capsys.readouterr().out
        (path,) = run.glob("**/evaluation/test-last/metrics.json")
        report = json.loads(path.read_text())
        assert report["clips"] > 0
        if config.loss.name == "bmc":
            assert "spearman" in report["all"]
        else:
            assert {"uar", "accuracy", "precision", "recall", "specificity", "f1"} <= report["all"].keys()
        if name in ("pfed5", "neuroface") and not number:
            assert len(report["expressions"]) == 2
            assert "mean over expressions" in told
    if name == "dfew":
        for part, run in (("trajectory", tmp_path / "run0"), ("rgb", tmp_path / "run1")):
            downstream = shrink(pfed5.get_config(), tmp_path, streams=part)
            downstream.init[part] = str(run)
            _, table = initial_weights.initial_variables(downstream)
            assert f"{part}_encoder" in table
