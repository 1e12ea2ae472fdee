"""The command: what it says, refuses and writes; converted folders, training runs, and PyTorch's part."""

import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import convert_weights
from convert_weights import export, store
from convert_weights.__main__ import main
from convert_weights.convert import flattened, nested, target_shapes, to_variables
from tests import hostile_files
from tests.state_dicts import BROKEN, assert_same, random_state_dict, small, write


def folders_of(path):
    return sorted(p.name for p in path.iterdir())


# --- warnings and errors ---------------------------------------------------------------------------------------------


def test_rounding_and_values_that_are_not_numbers_are_told(tmp_path, capsys):
    tensors = random_state_dict(small("former_dfer"))
    tensors["fc.weight"][0, 0] = np.nan
    tensors["s_former.bn1.running_var"][1] = np.inf
    tensors["fc.bias"] = np.full(7, 0.1)
    source = write(tmp_path / "a.pth", {"state_dict": {f"module.{n}": x for n, x in tensors.items()}})
    assert main([str(source), "--out", str(tmp_path / "out")]) == 0
    assert sorted(capsys.readouterr().err.splitlines()) == [
        f"warning: {source}: float64 rounded to float32 in module.fc.bias",
        f"warning: {source}: not a finite number (NaN or infinity) in module.fc.weight",
        f"warning: {source}: not a finite number (NaN or infinity) in module.s_former.bn1.running_var",
    ]


@pytest.mark.parametrize("case", BROKEN, ids=[case.what for case in BROKEN])
def test_broken_state_dict_is_refused_and_nothing_is_written(case, tmp_path, capsys):
    source = write(tmp_path / "a.pth", case.tree())
    assert main([str(source), "--out", str(tmp_path / "out"), "--kind", case.kind]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {source}: ")
    for text in case.error:
        assert text in err
    assert "Traceback" not in err
    assert out == ""
    assert folders_of(tmp_path) == ["a.pth"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere.pth", "--out", "new"], "nowhere.pth: No such file or directory; check the path"),
        (["a.pth", "--out", "full"], "full: exists; replace it with --overwrite, or name another"),
        (["a.pth", "--out", "full", "--overwrite"], "full: is not a folder with conversion.json, so it will not be"),
        (["a.pth", "--out", "a.pth", "--overwrite"], "a.pth: is not a folder with conversion.json, so it will not be"),
        (["a.pth", "--out", "no/new"], "no: no such folder; create it first"),
        (["a.pth", "--to-pytorch", "full", "--overwrite"], "full: is not a file, so it will not be overwritten"),
        (["full", "--out", "new"], "full: is neither a converted folder (conversion.json) nor a training run"),
    ],
)
def test_misuse_is_one_line(arguments, error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert error in err
    assert err.count("\n") == 1
    assert folders_of(tmp_path) == ["a.pth", "full"]
    assert folders_of(tmp_path / "full") == ["precious.txt"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("stages.0.blocks.0.transformer.norm_1.weight", (1 << 24,)),
        ("stages.0.blocks.0.transformer.attention.0.relative_position_bias_table", ((1 << 22) - 1, 4)),
        ("stages.0.blocks.0.transformer.attention.2.relative_position_bias_table", ((1 << 22) - 1, 4)),
        ("stages.9999.blocks.9999.\x1b[2Jextra", (1,)),
    ],
)
def test_sizes_and_names_that_a_file_makes_up_do_no_harm(name, shape, tmp_path, capsys):
    tensors = random_state_dict(small("skateformer"))
    expanded = np.broadcast_to(np.float32(1), shape)
    source = write(tmp_path / "a.pth", tensors | {name: expanded})
    started = time.perf_counter()
    assert main([str(source), "--out", str(tmp_path / "out")]) == 1
    assert time.perf_counter() - started < 10
    err = capsys.readouterr().err
    assert str(max(shape)) in err
    assert "\x1b" not in err


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"kind is 'resnet'; known: auto, former_dfer"):
        convert_weights.load_checkpoint("a.pth", "resnet")


# --- the folder ------------------------------------------------------------------------------------------------------


def test_folder_holds_what_was_loaded_and_is_replaced_whole(tmp_path, monkeypatch):
    first = write(tmp_path / "a.pth", random_state_dict(small("skateformer"), seed=1))
    second = write(tmp_path / "b.pth", random_state_dict(small("skateformer"), seed=2))
    out = tmp_path / "out"
    assert main([str(first), "--out", str(out)]) == 0
    again, loaded = convert_weights.load_checkpoint(out), convert_weights.load_checkpoint(first)
    assert_same(flattened(again.variables), flattened(loaded.variables))
    assert again.model_config.to_dict() == loaded.model_config.to_dict()
    assert again.report == json.loads((out / store.REPORT).read_text())
    assert again.report["source"]["file"] == "a.pth"

    with monkeypatch.context() as patch:  # the disk is full after the arrays
        patch.setattr(store.json, "dumps", lambda *_, **__: (_ for _ in ()).throw(OSError("No space left on device")))
        assert main([str(second), "--out", str(out), "--overwrite"]) == 1
    assert folders_of(tmp_path) == ["a.pth", "b.pth", "out"]
    assert convert_weights.load_checkpoint(out).report["source"]["file"] == "a.pth"

    assert main([str(second), "--out", str(out), "--overwrite"]) == 0
    assert folders_of(tmp_path) == ["a.pth", "b.pth", "out"]
    assert convert_weights.load_checkpoint(out).report["source"]["file"] == "b.pth"


def test_damaged_folder_is_told(tmp_path):
    source = write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    out = tmp_path / "out"
    assert main([str(source), "--out", str(out)]) == 0
    report = json.loads((out / store.REPORT).read_text())
    for changed in (
        report | {"format": 99},
        {k: v for k, v in report.items() if k != "fresh"},
        report | {"fresh": ["params/head/layer1/bias"]},
        report | {"model_config": report["model_config"] | {"head": {"hidden": [], "num_classes": 9}}},
    ):
        (out / store.REPORT).write_text(json.dumps(changed))
        with pytest.raises(convert_weights.CheckpointError, match="convert its source again"):
            convert_weights.load_checkpoint(out)
    (out / store.REPORT).write_text("{")
    with pytest.raises(convert_weights.CheckpointError, match="cannot be read"):
        convert_weights.load_checkpoint(out)


# --- training runs ---------------------------------------------------------------------------------------------------


def test_run_is_exported_with_its_input_scale_in_the_stem(tmp_path, config):
    torch = pytest.importorskip("torch")
    from convert_weights.torch_twin import build_twin
    from tramp_jax.checkpoint import Checkpoints

    rng = np.random.default_rng(0)
    flat = {p: rng.standard_normal(s, np.float32) for p, s in target_shapes(config.model).items()}
    folds, run = tmp_path / "run", tmp_path / "run" / "fold_2"
    run.mkdir(parents=True)
    (folds / store.RUN_CONFIG).write_text(config.to_json())
    with Checkpoints(run) as checkpoints:
        checkpoints.save_best(7, jax.tree.map(jax.numpy.array, nested(flat)))
    assert main([str(run), "--to-pytorch", str(tmp_path / "a.pth"), "--out", str(tmp_path / "out")]) == 0
    tensors = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert not any(build_twin(config.model).load_state_dict(tensors, strict=True))
    assert tensors["rgb_encoder.s_former.bn1.num_batches_tracked"] == 7
    back = flattened(to_variables({n: x.numpy() for n, x in tensors.items()}, config.model))
    scale = np.array(config.model.trajectory.input_scale, np.float32)
    assert not np.all(scale == 1)
    assert_same(back, flat | {export.STEM: flat[export.STEM] * scale[:, None]})
    # The converted folder, however, keeps the run's own parameters.
    assert_same(flattened(convert_weights.load_checkpoint(tmp_path / "out").variables), flat)
    with pytest.raises(convert_weights.CheckpointError, match=r"is a run over folds; give one .*run/fold_2"):
        convert_weights.load_checkpoint(folds)
    with pytest.raises(convert_weights.CheckpointError, match="no checkpoint 'last'"):
        convert_weights.load_checkpoint(run, checkpoint="last")


def test_head_without_a_counterpart_in_pytorch_is_refused(tmp_path, capsys):
    pytest.importorskip("torch")
    source = write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    checkpoint = convert_weights.load_checkpoint(source)
    checkpoint.model_config.head.hidden = (8,)
    with pytest.raises(convert_weights.CheckpointError, match=r"model.head.hidden is \(8,\)"):
        export.write_pth(checkpoint, tmp_path / "b.pth", overwrite=False)
    assert folders_of(tmp_path) == ["a.pth"]


# --- without and with PyTorch ----------------------------------------------------------------------------------------


def test_only_writing_needs_pytorch(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    source = write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    assert main([str(source), "--out", str(tmp_path / "out")]) == 0
    assert main([str(tmp_path / "out"), "--to-pytorch", str(tmp_path / "b.pth")]) == 1
    assert "b.pth: writing it needs PyTorch; pip install 'tramp_jax[torch]'" in capsys.readouterr().err
    assert main([str(tmp_path / "out"), "--verify"]) == 1
    assert "it needs PyTorch" in capsys.readouterr().err


def test_verify_compares_every_stage_with_pytorch(tmp_path, capsys):
    pytest.importorskip("torch")
    config = small("tramp_former")
    config.trajectory.widths = (32, 32)  # half as long to compile
    source = write(tmp_path / "a.pth", {"model": random_state_dict(config)})
    assert main([str(source), "--verify", "--length", "64"]) == 0
    table = capsys.readouterr().out
    for stage in ("trajectory_stage_1", "trajectory_features", "frame_features", "fused_features", "score"):
        assert f"\n{stage} " in table
    assert "beyond" not in table


def test_verify_sees_a_difference(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    from convert_weights import torch_twin

    def other_twin(model, build=torch_twin.build_twin):
        model.rgb.temporal_heads = 4
        return build(model)

    source = write(tmp_path / "a.pth", random_state_dict(small("former_dfer")))
    monkeypatch.setattr(torch_twin, "build_twin", other_twin)
    assert main([str(source), "--verify"]) == 1
    out, err = capsys.readouterr()
    assert err == f"error: {source}: our model and PyTorch differ by more than 0.0002\n"
    beyond = {line.split()[0] for line in out.splitlines() if line.endswith("beyond tolerance")}
    assert beyond == {"subclip_features", "score"}


def test_importing_the_package_loads_no_framework():
    code = "import sys, convert_weights; assert not {'jax', 'torch', 'orbax'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- hostile files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", hostile_files.TABLE, ids=[row.name for row in hostile_files.TABLE])
def test_hostile_file_runs_nothing_and_writes_nothing(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / row.name).write_bytes(row.content("canary"))
    hostile_files.FIRED.clear()
    assert main([row.name, "--out", "out", "--to-pytorch", "out.pth", "--verify"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {row.name}: ")
    assert row.error in err
    assert err.count("\n") == 1
    assert folders_of(tmp_path) == [row.name]
    assert hostile_files.FIRED == []
