"""The command: its messages, errors and files; converted folders, training runs, and where PyTorch is needed."""

import json
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

import convert_weights
from convert_weights import export, reader, store
from convert_weights.convert import flattened, nested, target_shapes, to_variables
from tests import hostile_files
from tests.raises import user_error
from tests.state_dicts import BROKEN, assert_same, random_state_dict, run_command, small, write


def entries_of(path):
    return sorted(p.name for p in path.iterdir())


# --- warnings and errors ---------------------------------------------------------------------------------------------


def test_rounded_and_non_finite_values_give_warnings(tmp_path, capsys):
    tensors = random_state_dict(small("former_dfer"))
    tensors["fc.weight"][0, 0] = np.nan
    tensors["s_former.bn1.running_var"][1] = np.inf
    tensors["fc.bias"] = np.full(7, 0.1)
    source = write(tmp_path / "a.pth", {"state_dict": {f"module.{n}": x for n, x in tensors.items()}})
    assert run_command([str(source), "--out", str(tmp_path / "out")]) == 0
    assert sorted(capsys.readouterr().err.splitlines()) == [
        f"warning: {source}: float64 rounded to float32 in module.fc.bias",
        f"warning: {source}: not a finite number (NaN or infinity) in module.fc.weight",
        f"warning: {source}: not a finite number (NaN or infinity) in module.s_former.bn1.running_var",
    ]


@pytest.mark.parametrize("case", BROKEN, ids=[case.what for case in BROKEN])
def test_broken_state_dict_is_refused_and_nothing_is_written(case, tmp_path, capsys):
    source = write(tmp_path / "a.pth", case.tree())
    assert run_command([str(source), "--out", str(tmp_path / "out"), "--kind", case.kind]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {source}: ")
    for fact in case.facts:
        assert fact in err
    assert "Traceback" not in err
    assert out == ""
    assert entries_of(tmp_path) == ["a.pth"]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["nowhere.pth", "--out", "new"], ["nowhere.pth: "]),
        (["a.pth", "--out", "full"], ["full: ", "--overwrite"]),
        (["a.pth", "--out", "full", "--overwrite"], ["full: ", "conversion.json"]),
        (["a.pth", "--out", "a.pth", "--overwrite"], ["a.pth: ", "conversion.json"]),
        (["a.pth", "--out", "a.pth/such/new"], ["a.pth/such/new: ", "a file"]),
        (["a.pth", "--to-pytorch", "full", "--overwrite"], ["full: "]),
        (["full", "--out", "new"], ["full: ", "conversion.json", "checkpoints/"]),
    ],
)
def test_misuse_is_one_line(arguments, facts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("x")
    assert run_command(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert all(fact in err for fact in facts)
    assert err.count("\n") == 1
    assert entries_of(tmp_path) == ["a.pth", "full"]
    assert entries_of(tmp_path / "full") == ["precious.txt"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("stages.0.blocks.0.transformer.norm_1.weight", (1 << 24,)),
        ("stages.0.blocks.0.transformer.attention.0.relative_position_bias_table", ((1 << 22) - 1, 4)),
        ("stages.0.blocks.0.transformer.attention.2.relative_position_bias_table", ((1 << 22) - 1, 4)),
        ("stages.9999.blocks.9999.\x1b[2Jextra", (1,)),
    ],
)
def test_invented_sizes_and_names_do_no_harm(name, shape, tmp_path, capsys):
    tensors = random_state_dict(small("skateformer"))
    expanded = np.broadcast_to(np.float32(1), shape)
    source = write(tmp_path / "a.pth", tensors | {name: expanded})
    started = time.perf_counter()
    assert run_command([str(source), "--out", str(tmp_path / "out")]) == 1
    assert time.perf_counter() - started < 10
    err = capsys.readouterr().err
    assert str(max(shape)) in err
    assert "\x1b" not in err


def test_unknown_kind_is_named():
    with user_error("bad_option", "resnet", "auto", "former_dfer"):
        convert_weights.load_checkpoint("a.pth", "resnet")


# --- the folder ------------------------------------------------------------------------------------------------------


def test_folder_holds_what_was_loaded_and_is_replaced_as_a_whole(tmp_path, monkeypatch, capsys):
    first = write(tmp_path / "a.pth", random_state_dict(small("skateformer"), seed=1))
    second = write(tmp_path / "b.pth", random_state_dict(small("skateformer"), seed=2))
    out = tmp_path / "out"
    assert run_command([str(first), "--out", str(out)]) == 0
    again, loaded = convert_weights.load_checkpoint(out), convert_weights.load_checkpoint(first)
    assert_same(flattened(again.variables), flattened(loaded.variables))
    assert again.model_config.to_dict() == loaded.model_config.to_dict()
    assert again.report == json.loads((out / store.REPORT).read_text())
    assert again.report["source"]["file"] == "a.pth"

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:  # full after the arrays
        patch.setattr(store, "json", types.SimpleNamespace(dumps=full_disk))
        assert run_command([str(second), "--out", str(out), "--overwrite"]) == 1
    assert f"error: {out}: " in capsys.readouterr().err
    assert entries_of(tmp_path) == ["a.pth", "b.pth", "out"]
    assert convert_weights.load_checkpoint(out).report["source"]["file"] == "a.pth"

    assert run_command([str(second), "--out", str(out), "--overwrite"]) == 0
    assert entries_of(tmp_path) == ["a.pth", "b.pth", "out"]
    assert convert_weights.load_checkpoint(out).report["source"]["file"] == "b.pth"


def test_damaged_folder_is_refused(tmp_path):
    source = write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    out = tmp_path / "out"
    assert run_command([str(source), "--out", str(out)]) == 0
    report = json.loads((out / store.REPORT).read_text())
    other_head = report["model_config"] | {"head": {"hidden": [], "num_classes": 9}}
    for changed, kind in (
        (report | {"format": 99}, "unsupported_file"),
        ({k: v for k, v in report.items() if k != "fresh"}, "damaged_file"),
        (report | {"fresh": ["params/head/layer1/bias"]}, "damaged_file"),
        (report | {"model_config": other_head}, "damaged_file"),
        (report | {"model_config": report["model_config"] | {"name": "resnet"}}, "damaged_file"),
        (report | {"kind": "resnet"}, "damaged_file"),
        (report | {"fresh": 3}, "damaged_file"),
        (report | {"naming": {"container": ["a"], "prefix": "", "encoder": "", "head": ""}}, "damaged_file"),
        (report | {"warnings": [None]}, "damaged_file"),
        (["not", "an", "object"], "damaged_file"),
    ):
        (out / store.REPORT).write_text(json.dumps(changed))
        with user_error(kind, out):
            convert_weights.load_checkpoint(out)
    for text in ("{", "[" * 100_000, '{"format": 1' + "0" * 5000 + "}"):
        (out / store.REPORT).write_text(text)
        with user_error("damaged_file", out / store.REPORT):
            convert_weights.load_checkpoint(out)


@pytest.mark.parametrize("error", [KeyError, TypeError, ValueError, AttributeError])
def test_a_bug_is_not_taken_for_a_damaged_folder(tmp_path, monkeypatch, error):
    source, out = write(tmp_path / "a.pth", random_state_dict(small("skateformer"))), tmp_path / "out"
    assert run_command([str(source), "--out", str(out)]) == 0

    def bug(*_):
        raise error("bug")

    monkeypatch.setattr(store, "target_shapes", bug)
    with pytest.raises(error, match="bug"):
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
    (folds / "config.json").write_text(config.to_json())
    with Checkpoints(run, writing=True) as checkpoints:
        checkpoints.save_best(7, jax.tree.map(jax.numpy.array, nested(flat)))
    assert run_command([str(run), "--to-pytorch", str(tmp_path / "a.pth"), "--out", str(tmp_path / "out")]) == 0
    tensors = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert not any(build_twin(config.model).load_state_dict(tensors, strict=True))
    assert tensors["rgb_encoder.s_former.bn1.num_batches_tracked"] == 7
    back = flattened(to_variables({n: x.numpy() for n, x in tensors.items()}, config.model))
    scale = np.array(config.model.trajectory.input_scale, np.float32)
    assert not np.all(scale == 1)
    assert_same(back, flat | {export.STEM: flat[export.STEM] * scale[:, None]})
    # The converted folder, however, keeps the run's own parameters.
    assert_same(flattened(convert_weights.load_checkpoint(tmp_path / "out").variables), flat)
    with user_error("not_a_run", run):
        convert_weights.load_checkpoint(folds)
    with user_error("missing_checkpoint", run, "'last'"):
        convert_weights.load_checkpoint(run, checkpoint="last")


def test_head_without_a_counterpart_in_pytorch_is_refused(tmp_path, capsys):
    pytest.importorskip("torch")
    source = write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    checkpoint = convert_weights.load_checkpoint(source)
    checkpoint.model_config.head.hidden = (8,)
    with user_error("no_counterpart", "model.head.hidden", "(8,)"):
        export.write_pth(checkpoint, tmp_path / "b.pth", overwrite=False)
    assert entries_of(tmp_path) == ["a.pth"]


# --- without and with PyTorch ----------------------------------------------------------------------------------------


def test_only_writing_needs_pytorch(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    source = write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    assert run_command([str(source), "--out", str(tmp_path / "out")]) == 0
    assert run_command([str(tmp_path / "out"), "--to-pytorch", str(tmp_path / "b.pth")]) == 1
    err = capsys.readouterr().err
    assert "b.pth" in err
    assert "pip install 'tramp_jax[torch]'" in err
    assert run_command([str(tmp_path / "out"), "--verify"]) == 1
    assert "pip install 'tramp_jax[torch]'" in capsys.readouterr().err


def test_verify_compares_every_stage_with_pytorch(tmp_path, capsys):
    pytest.importorskip("torch")
    config = small("tramp_former")
    config.trajectory.widths = (32, 32)  # half as long to compile
    source = write(tmp_path / "a.pth", {"model": random_state_dict(config)})
    assert run_command([str(source), "--verify", "--length", "64"]) == 0
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
    assert run_command([str(source), "--verify"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {source}: ")
    assert "0.0002" in err
    beyond = {line.split()[0] for line in out.splitlines() if line.endswith("beyond tolerance")}
    assert beyond == {"subclip_features", "rgb_features", "score"}


def test_importing_the_package_loads_no_framework():
    code = "import sys, convert_weights; assert not {'jax', 'torch', 'orbax'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- hostile files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", hostile_files.TABLE, ids=[row.name for row in hostile_files.TABLE])
def test_hostile_file_runs_nothing_and_writes_nothing(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reader, "_MAX_NODES", hostile_files.NODES)
    (tmp_path / row.name).write_bytes(row.content("canary"))
    hostile_files.FIRED.clear()
    assert run_command([row.name, "--out", "out", "--to-pytorch", "out.pth", "--verify"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {row.name}: ")
    assert row.error[1] in err
    assert err.count("\n") == 1
    assert entries_of(tmp_path) == [row.name]
    assert hostile_files.FIRED == []
