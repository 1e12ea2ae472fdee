"""Every published kind and format, converted and converted back."""

import dataclasses
import time

import jax
import ml_dtypes
import numpy as np
import pytest

import convert_weights
from convert_weights import export
from convert_weights.convert import flattened, to_variables
from convert_weights.kinds import KINDS
from convert_weights.kinds.kind import Kind
from tests.golden import golden
from tests.golden.cases import FEATURE_TOLERANCE
from tests.raises import user_error
from tests.state_dicts import FOREIGN, assert_same, random_state_dict, run_command, small, write
from tramp_jax.models import build_model

GOLDEN = {
    "skateformer_t128_c5": ["--fresh", "params/head", "--length", "128"],
    "skateformer_ntu60": [],
    "former_dfer_112": [],
    "tramp_former_t128": [],
}
RECORDS = {"epoch": 100, "optimizer": {"state": {"0": np.zeros(3, np.float32)}, "lr": 0.1}, "recorder": FOREIGN}


# --- the published kinds at full size --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=GOLDEN)
def converted(request, tmp_path_factory):
    """(spec, file, folder converted by the command line, seconds it took)."""
    pytest.importorskip("torch")
    spec, folder = golden.load_spec(request.param), tmp_path_factory.mktemp("golden")
    golden.write_pth(spec, folder / "weights.pth")
    started = time.perf_counter()
    assert run_command([str(folder / "weights.pth"), "--out", str(folder / "out"), *GOLDEN[request.param]]) == 0
    return request.param, spec, folder, time.perf_counter() - started


def test_published_kind_converts_to_the_golden_weights(converted):
    case, spec, folder, seconds = converted
    assert seconds < 10
    checkpoint = convert_weights.load_checkpoint(folder / "out")
    tensors = golden.state_dict(spec)
    if case == "skateformer_t128_c5":  # published without a head
        tensors |= {"head.weight": np.zeros((1, 256), np.float32), "head.bias": np.zeros(1, np.float32)}
    expected = flattened(to_variables(tensors, checkpoint.model_config))
    if case == "skateformer_t128_c5":
        expected = {path: x for path, x in expected.items() if path[1] != "head"}
    assert_same(flattened(checkpoint.variables), expected)


def test_published_kind_reproduces_the_golden_outputs(converted):
    case, spec, folder, _ = converted
    if case in ("tramp_former_t128", "skateformer_ntu60"):
        pytest.skip("tests/test_parity.py runs these weights, which the test above shows to be equal")
    checkpoint = convert_weights.load_checkpoint(folder / "out")
    apply = jax.jit(build_model(checkpoint.model_config).apply)
    if case == "former_dfer_112":
        frames = golden.draw("rgb", (2, 16, 3, 112, 112), spec["input_seed"]).transpose(0, 1, 3, 4, 2)
        ours, _ = apply(checkpoint.variables, frames, None, None)
        quantity = "logits"
    else:
        trajectories = golden.draw("traj", (2, 63, 128, 5), spec["input_seed"]).transpose(0, 2, 1, 3)
        index_t = np.tile((2 * np.arange(128) / 128 - 1).astype(np.float32), (2, 1))
        head = {"layer1": {"kernel": np.zeros((256, 1), np.float32), "bias": np.zeros(1, np.float32)}}
        checkpoint.variables["params"]["head"] = head
        _, out = apply(checkpoint.variables, None, trajectories, index_t)
        ours, quantity = out["trajectory_features"], "features"
    with np.load(golden.HERE / f"{case}.npz") as reference:
        error = np.max(np.abs(ours - reference[quantity])) / np.max(np.abs(reference[quantity]))
    assert error < FEATURE_TOLERANCE


def test_published_kind_comes_back_bit_for_bit(converted):
    torch = pytest.importorskip("torch")
    _, spec, folder, _ = converted
    assert run_command([str(folder / "out"), "--to-pytorch", str(folder / "back.pth")]) == 0
    before = torch.load(folder / "weights.pth", weights_only=True)
    after = torch.load(folder / "back.pth", weights_only=True)
    if container := spec.get("container"):
        before, after = before[container], after[container]
    assert_same(
        {name: x.numpy() for name, x in after.items()},
        {name.removeprefix("module."): x.numpy() for name, x in before.items()},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_loads_the_export_strictly(kind, tmp_path):
    torch = pytest.importorskip("torch")
    from convert_weights.torch_twin import build_twin

    source = write(tmp_path / "a.pth", random_state_dict(small(kind)))
    assert run_command([str(source), "--to-pytorch", str(tmp_path / "b.pth")]) == 0
    twin = build_twin(convert_weights.load_checkpoint(source).model_config)
    assert not any(twin.load_state_dict(torch.load(tmp_path / "b.pth", weights_only=True), strict=True))


# --- formats -----------------------------------------------------------------------------------------------------


def _as_skateformer_256(encoder):
    def tree(tensors):
        renamed = {f"evaluator.{n}" if n.startswith("head.") else encoder + n: x for n, x in tensors.items()}
        return {"model": {f"module.{n}": x for n, x in renamed.items()}}

    return tree


FORMATS = {
    "Former-DFER": ("former_dfer", lambda t: {"state_dict": {f"module.{n}": x for n, x in t.items()}} | RECORDS),
    "SkateFormer_256": ("skateformer", _as_skateformer_256("")),
    "SkateFormer_256 with encoder.": ("skateformer", _as_skateformer_256("encoder.")),
    "SkateFormer": ("skateformer", lambda t: t),
    "TraMP-Former": ("tramp_former", lambda t: {"model": t} | RECORDS),
    "TraMP-Former with module.": ("tramp_former", lambda t: {"model": {f"module.{n}": x for n, x in t.items()}}),
}


def _prefixed(prefix, tensors):
    return {prefix + name: x for name, x in tensors.items()}


def _inside(module, wrapper, tensors):
    return {name.replace(f"{module}.", f"{module}.{wrapper}.", 1): x for name, x in tensors.items()}


AVERAGED = {"n_averaged": np.array(5)}
# What training scripts write around a model's state dict, and the container that is read.
SCRIPTS = {
    "torch.compile": ("", lambda t: _prefixed("_orig_mod.", t)),
    "DDP of torch.compile": ("state_dict", lambda t: {"state_dict": _prefixed("module._orig_mod.", t)}),
    "torch.compile of DDP": ("model", lambda t: {"model": _prefixed("_orig_mod.module.", t)}),
    "DDP in DataParallel": ("", lambda t: _prefixed("module.module.", t)),
    "one compiled module": ("", lambda t: _inside("s_former", "_orig_mod", t)),
    "one parallel module in DDP": ("", lambda t: _prefixed("module.", _inside("s_former", "module", t))),
    "a wrapped last layer": ("", lambda t: _inside("fc", "module._orig_mod", t)),
    "Lightning": ("state_dict", lambda t: {"state_dict": _prefixed("model.", t), "hyper_parameters": {"lr": 0.1}}),
    "Lightning with DDP": ("state_dict", lambda t: {"state_dict": _prefixed("net.module._orig_mod.", t)}),
    "AveragedModel": ("", lambda t: AVERAGED | _prefixed("module.", t)),
    "AveragedModel of torch.compile": ("ema", lambda t: {"ema": AVERAGED | _prefixed("module._orig_mod.", t)}),
    "torch.compile of AveragedModel": ("", lambda t: _prefixed("_orig_mod.", AVERAGED | _prefixed("module.", t))),
    "AveragedModel of DDP": ("swa", lambda t: {"swa": _prefixed("module.module.", t) | AVERAGED}),
    "another key": ("net_weights", lambda t: {"net_weights": t}),
    "nested containers": ("ckpt.model", lambda t: {"ckpt": {"model": _prefixed("module.", t), "epoch": 3}}),
    "a list": ("models.0", lambda t: {"models": [t]}),
    "records beside the tensors": ("", lambda t: t | {"epoch": 3, "best": 0.5, "args": {"lr": 0.1}}),
    "best_acc": ("state_dict", lambda t: {"epoch": 9, "state_dict": t, "best_acc": np.array(65.7, np.float32)}),
    "best_acc of a topk": ("state_dict", lambda t: {"state_dict": t, "best_acc": np.array([65.7], np.float32)}),
    "a loss with weights": ("state_dict", lambda t: {"state_dict": t, "criterion": {"weight": np.ones(7)}}),
    "random states": ("model", lambda t: {"model": t, "rng": [np.zeros(16, np.int64), {"cuda": np.zeros(3)}]}),
    "an optimiser's names": ("model", lambda t: {"model": t, "optim_state": {"momentum": t}, "lr_schedulers": [{}]}),
    "nested optimisers": ("c.model", lambda t: {"c": {"model": t, "optimizers": [{"state": {"0": {"m": t}}}]}}),
}


@pytest.mark.parametrize("kind", ["former_dfer", "tramp_former"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_training_scripts_save_the_same_weights_in_many_ways(script, kind, tmp_path):
    if kind == "tramp_former" and not script.startswith(("torch.compile", "Lightning", "Averaged", "one", "nested")):
        pytest.skip("the same for every kind")
    container, tree = SCRIPTS[script]
    config = small(kind)
    tensors = random_state_dict(config)
    checkpoint = convert_weights.load_checkpoint(write(tmp_path / "a.pth", tree(tensors)))
    assert checkpoint.kind == kind
    assert checkpoint.report["naming"]["container"] == container
    assert_same(flattened(checkpoint.variables), flattened(to_variables(tensors, config)))
    assert_same(export.to_state_dict(checkpoint), tensors)
    assert checkpoint.report["warnings"] == []


def test_every_loose_tensor_is_in_the_report_and_on_the_screen(tmp_path, capsys):
    loose = {"best_acc": np.array(65.5, np.float32), "criterion": {"weight": np.ones(7)}, "epoch": 9}
    source = write(tmp_path / "a.pth", loose | {"state_dict": random_state_dict(small("former_dfer"))})
    assert run_command([str(source), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    dropped = {r.pop("source"): r for r in convert_weights.load_checkpoint(tmp_path / "out").report["dropped"]}
    assert dropped["best_acc"] == {"reason": "tensor outside the state dict", "shape": [], "value": 65.5}
    assert dropped["criterion.weight"] == {"reason": "tensor outside the state dict", "shape": [7]}
    assert dropped["epoch"] == {"reason": "training record", "value": 9}
    assert "dropped: best_acc: " in shown
    assert "dropped: criterion.weight: " in shown


def test_integers_of_any_size_beside_the_weights_come_back(tmp_path):
    """Seeds of 64 bits, and what only a stranger writes; text of an integer has a limit of 4300 digits."""
    numbers = {"seed": 2**64 - 1, "epoch": -(2**63) + 1, "huge": 10**5000}
    source = write(tmp_path / "a.pth", numbers | {"state_dict": random_state_dict(small("former_dfer"))})
    assert run_command([str(source), "--out", str(tmp_path / "out")]) == 0
    dropped = {r["source"]: r.get("value") for r in convert_weights.load_checkpoint(tmp_path / "out").report["dropped"]}
    assert (dropped["seed"], dropped["epoch"]) == ("0xffffffffffffffff", -(2**63) + 1)
    assert len(dropped["huge"]) == 200


def test_counter_of_an_average_is_in_the_report_and_must_not_be_zero(tmp_path):
    tensors = _prefixed("module.", random_state_dict(small("former_dfer")))
    report = convert_weights.load_checkpoint(write(tmp_path / "a.pth", tensors | AVERAGED)).report
    assert [r["value"] for r in report["dropped"] if r["source"] == "n_averaged"] == [5]
    report = convert_weights.load_checkpoint(write(tmp_path / "b.pth", tensors | {"n_averaged": np.array(0)})).report
    assert any("n_averaged" in warning for warning in report["warnings"])


@pytest.mark.parametrize("counter", [np.zeros(2, np.int64), np.array(0.5)])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_tensor_that_is_only_named_like_the_counter_is_refused(counter, prefix, tmp_path):
    tensors = _prefixed(prefix, random_state_dict(small("former_dfer")))
    with user_error("mismatch", "n_averaged", "--drop 'n_averaged'"):
        convert_weights.load_checkpoint(write(tmp_path / "a.pth", tensors | {"n_averaged": counter}))


def test_wrapped_types_and_containers_survive_the_round_trip(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = random_state_dict(small("former_dfer"))
    tensors["fc.weight"] = tensors["fc.weight"].astype(np.float64)
    tree = {"a": {"b": _prefixed("module.", _inside("fc", "_orig_mod", tensors))}, "fc.weight.best": np.array(1.0)}
    assert run_command([str(write(tmp_path / "a.pth", tree)), "--to-pytorch", str(tmp_path / "b.pth")]) == 0
    back = torch.load(tmp_path / "b.pth", weights_only=True)["a"]["b"]
    assert_same({name: x.numpy() for name, x in back.items()}, tensors)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own imports
def test_pytorch_writes_these_wrappers(tmp_path):
    """The names above are those of real AveragedModel, DataParallel and torch.compile."""
    torch = pytest.importorskip("torch")
    from convert_weights.torch_twin import build_twin

    twin = build_twin(small("former_dfer"))
    released = {name: x.numpy() for name, x in twin.state_dict().items()}
    compiled = torch.compile(twin)
    for i, module in enumerate(
        (
            torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(compiled)),
            torch.nn.DataParallel(torch.optim.swa_utils.AveragedModel(twin)),
            torch.compile(torch.nn.DataParallel(twin)),
        )
    ):
        optimiser = torch.optim.AdamW(module.parameters())
        saved = {"state_dict": module.state_dict(), "optimizer": optimiser.state_dict(), "best_acc": torch.tensor(6.5)}
        torch.save(saved, tmp_path / f"{i}.pth")
        assert_same(export.to_state_dict(convert_weights.load_checkpoint(tmp_path / f"{i}.pth")), released)


def test_one_of_several_state_dicts_is_chosen_by_its_container(tmp_path):
    config = small("former_dfer")
    first, second, third = (random_state_dict(config, seed) for seed in range(3))
    tree = first | {"ema": AVERAGED | _prefixed("module.", second), "old": {"model": third}}
    source = write(tmp_path / "a.pth", tree)
    names = {"": "fc.bias", "ema": "ema.module.fc.bias", "old.model": "old.model.fc.bias"}
    for container, tensors in zip(names, (first, second, third), strict=True):
        checkpoint = convert_weights.load_checkpoint(source, container=container)
        assert_same(export.to_state_dict(checkpoint), tensors)
        sources = [r["source"] for r in checkpoint.report["tensors"] + checkpoint.report["dropped"]]
        assert {name for place, name in names.items() if place != container} <= set(sources)
        assert len(sources) == 3 * len(first) + 1
    with user_error("bad_option", "--container 'new'", "'ema'", "'old.model'"):
        convert_weights.load_checkpoint(source, container="new")


# --- tensors dropped on purpose --------------------------------------------------------------------------------------

LAYERS = "s_former.spatial_transformer.layers."


def _with_more_layers(tensors, layers=(1,)):
    first = {name.removeprefix(f"{LAYERS}0."): x for name, x in tensors.items() if name.startswith(f"{LAYERS}0.")}
    return tensors | {f"{LAYERS}{i}.{name}": x + 1 for i in layers for name, x in first.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_further_layers_are_named_and_dropped_only_on_purpose(prefix, tmp_path, capsys):
    tensors = random_state_dict(small("former_dfer"))
    deeper = _prefixed(prefix, _with_more_layers(tensors, (1, 2)))
    source, out = str(write(tmp_path / "a.pth", {"state_dict": deeper})), str(tmp_path / "out")
    extra = deeper.keys() - _prefixed(prefix, tensors).keys()
    assert run_command([source, "--out", out]) == 1
    error = capsys.readouterr().err
    assert all(f"\n  {name} " in error for name in extra)
    options = [f"--drop '{prefix}{LAYERS}{i}.*'" for i in (1, 2)]
    assert error.endswith(f"{' '.join(options)}\n")

    patterns = [f"{LAYERS}1.*", f"{prefix}{LAYERS}2.*"]
    assert run_command([source, "--out", out, *(option for p in patterns for option in ("--drop", p))]) == 0
    checkpoint = convert_weights.load_checkpoint(tmp_path / "out")
    assert_same(flattened(checkpoint.variables), flattened(to_variables(tensors, small("former_dfer"))))
    assert_same(export.to_state_dict(checkpoint), tensors)
    dropped = {r["source"]: r for r in checkpoint.report["dropped"] if "on purpose" in r["reason"]}
    assert dropped.keys() == extra
    assert all(r["shape"] == list(deeper[name].shape) for name, r in dropped.items())
    shown = capsys.readouterr().out
    assert all(f"dropped: {name}: " in shown for name in extra)


def test_dropping_cannot_make_another_model(tmp_path):
    config = small("former_dfer")
    config.rgb.temporal_depth = 3
    source = write(tmp_path / "a.pth", _with_more_layers(random_state_dict(config)))
    with user_error("mismatch", "t_former.spatial_transformer.layers.2.0.fn.norm.weight", "t_former/layer_2"):
        convert_weights.load_checkpoint(source, drop=["*.spatial_transformer.layers.[1-9].*"])


def test_head_can_be_dropped_and_left_fresh(tmp_path):
    source = write(tmp_path / "a.pth", random_state_dict(small("former_dfer")))
    checkpoint = convert_weights.load_checkpoint(source, drop=["fc.*"], fresh=["params/head"])
    assert "head" not in checkpoint.variables["params"]
    assert checkpoint.report["fresh"] == ["params/head/layer1/kernel", "params/head/layer1/bias"]


def test_one_of_two_models_in_a_state_dict_is_dropped(tmp_path):
    first, second = (random_state_dict(small("former_dfer"), seed) for seed in (1, 2))
    source = write(tmp_path / "a.pth", first | _prefixed("module.", second))
    assert_same(export.to_state_dict(convert_weights.load_checkpoint(source, drop=["module.*"])), first)
    names = ["s_former.*", "t_former.*", "fc.*"]
    assert_same(export.to_state_dict(convert_weights.load_checkpoint(source, drop=names)), second)


@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_two_names_for_one_tensor_are_refused_behind_any_prefix(prefix, tmp_path):
    tensors = random_state_dict(small("skateformer"))
    name = "joint_person_embedding"
    both = _prefixed(prefix, _prefixed("encoder.", tensors) | {name: tensors[name]})
    with user_error("unsupported_file", f"'{prefix}encoder.{name}'", f"'{prefix}{name}'", "--drop"):
        convert_weights.load_checkpoint(write(tmp_path / "a.pth", both))


def test_pattern_that_fits_nothing_or_everything_is_refused(tmp_path):
    source = write(tmp_path / "a.pth", random_state_dict(small("former_dfer")))
    for pattern in ("s_former.spatial_transformer.layers.1.*", "fc", "FC.*", "*"):
        with user_error("bad_option", source, "--drop"):
            convert_weights.load_checkpoint(source, drop=[pattern])


def test_options_of_files_are_refused_for_folders(tmp_path):
    for options in ({"drop": ["a"]}, {"container": "model"}):
        with user_error("bad_option", tmp_path, "--drop", "--container"):
            convert_weights.load_checkpoint(tmp_path, **options)


@pytest.mark.parametrize("name", FORMATS)
def test_format(name, tmp_path):
    kind, tree = FORMATS[name]
    tensors = random_state_dict(small(kind))
    tree = tree(tensors)
    checkpoint = convert_weights.load_checkpoint(write(tmp_path / "a.pth", tree))
    config = small(kind)
    assert checkpoint.kind == kind
    assert_same(flattened(checkpoint.variables), flattened(to_variables(tensors, config)))
    container = checkpoint.report["naming"]["container"]
    entries = tree[container] if container else tree
    assert_same(export.to_state_dict(checkpoint), {n.removeprefix("module."): x for n, x in entries.items()})
    # The report lists every tensor by its name in the file.
    listed = {r["source"] for r in checkpoint.report["tensors"] + checkpoint.report["dropped"]}
    assert entries.keys() <= listed
    if container and len(tree) > 1:
        dropped = {r["source"]: r for r in checkpoint.report["dropped"]}
        assert dropped["epoch"] == {"source": "epoch", "reason": "training record", "value": 100}
        assert dropped["optimizer.state.0"] == {
            "source": "optimizer.state.0",
            "reason": "optimiser state",
            "shape": [3],
        }
        assert "training.script.Recorder" in dropped["recorder"]["reason"]


def test_numpy_score_of_a_trained_model_is_kept(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {n: torch.from_numpy(x) for n, x in random_state_dict(small("tramp_former")).items()}
    torch.save({"epoch": 3, "model": tensors, "best_pho": np.float64(0.7186)}, tmp_path / "a.pth")
    dropped = convert_weights.load_checkpoint(tmp_path / "a.pth").report["dropped"]
    assert {"source": "best_pho", "reason": "training record", "value": 0.7186} in dropped


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = random_state_dict(small("former_dfer"))
    safetensors.save_file(tensors, tmp_path / "a.safetensors")
    assert_same(export.to_state_dict(convert_weights.load_checkpoint(tmp_path / "a.safetensors")), tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_architecture_is_read_off_the_shapes(kind, tmp_path):
    config = small(kind)
    checkpoint = convert_weights.load_checkpoint(write(tmp_path / "a.pth", random_state_dict(config)))
    assert checkpoint.model_config.to_dict() == config.to_dict()
    report = checkpoint.report
    if kind != "former_dfer":
        assert "trajectory.length" in report["assumed"]
        assert report["architecture"]["trajectory.widths"] == tuple(config.trajectory.widths)
    if kind != "skateformer":
        assert "rgb.spatial_heads" in report["assumed"]
        assert report["architecture"]["rgb.image_size"] == 32


def test_length_is_read_off_tables_of_their_own_size(tmp_path):
    config = small("skateformer")
    config.trajectory.update(table_frames=0, length=64)
    checkpoint = convert_weights.load_checkpoint(write(tmp_path / "a.pth", random_state_dict(config)))
    assert checkpoint.report["architecture"]["trajectory.length"] == 64
    assert checkpoint.model_config.to_dict() == config.to_dict()


def test_length_that_cannot_be_read_can_be_given(tmp_path):
    source = write(tmp_path / "a.pth", random_state_dict(small("skateformer")))
    assert convert_weights.load_checkpoint(source, length=64).model_config.trajectory.length == 64
    with user_error("unsupported_file", "a.pth", "model.trajectory.length", 100):
        convert_weights.load_checkpoint(source, length=100)


def test_a_new_kind_needs_only_its_module_and_a_line_in_the_registry(tmp_path, monkeypatch):
    """Former-DFER as another publisher might name and pack it."""

    def read(shapes, length):
        return KINDS["former_dfer"].read({name.removeprefix("backbone."): s for name, s in shapes.items()}, length)

    def name_map(config):
        pairs = KINDS["former_dfer"].name_map(config)
        return [dataclasses.replace(pair, source=f"backbone.{pair.source}") for pair in pairs]

    monkeypatch.setitem(KINDS, "elsewhere", Kind("elsewhere", ("backbone.",), read, name_map, container="net"))
    released = random_state_dict(small("former_dfer"))
    tensors = {f"backbone.{name}": x for name, x in released.items()}
    checkpoint = convert_weights.load_checkpoint(write(tmp_path / "a.pth", {"net": tensors}))
    assert checkpoint.kind == "elsewhere"
    assert_same(flattened(checkpoint.variables), flattened(to_variables(released, small("former_dfer"))))
    assert_same(export.to_state_dict(checkpoint), tensors)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_keep_their_type_on_the_way_back(dtype, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = random_state_dict(small("skateformer"))
    for name in ("stem.0.weight", "head.bias"):
        tensors[name] = tensors[name].astype(dtype)
    safetensors.save_file(tensors, tmp_path / "a.safetensors")
    checkpoint = convert_weights.load_checkpoint(tmp_path / "a.safetensors")
    assert all(x.dtype == np.float32 for x in flattened(checkpoint.variables).values())
    assert checkpoint.report["warnings"] == []
    assert_same(export.to_state_dict(checkpoint), tensors)


def test_bfloat16_reaches_pytorch_as_bfloat16(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {n: torch.from_numpy(x) for n, x in random_state_dict(small("skateformer")).items()}
    tensors["stem.0.weight"] = tensors["stem.0.weight"].to(torch.bfloat16)
    torch.save(tensors, tmp_path / "a.pth")
    assert run_command([str(tmp_path / "a.pth"), "--to-pytorch", str(tmp_path / "b.pth")]) == 0
    back = torch.load(tmp_path / "b.pth", weights_only=True)["stem.0.weight"]
    assert back.dtype == torch.bfloat16
    assert torch.equal(back, tensors["stem.0.weight"])
