"""Every published kind and format, converted and converted back."""

import dataclasses
import time

import jax
import ml_dtypes
import numpy as np
import pytest

import convert_weights
from convert_weights import export
from convert_weights.__main__ import main
from convert_weights.convert import flattened, to_variables
from convert_weights.kinds import KINDS
from convert_weights.kinds.kind import Kind
from tests.golden import golden
from tests.golden.cases import FEATURE_TOLERANCE
from tests.raises import user_error
from tests.state_dicts import FOREIGN, assert_same, random_state_dict, small, write
from tramp_jax.models import build_model

GOLDEN = {
    "skateformer_t128_c5": ["--fresh", "params/head", "--length", "128"],
    "skateformer_ntu60": [],
    "former_dfer_112": [],
    "tramp_former_t128": [],
}
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
RECORDS = {"epoch": 100, "optimizer": {"state": {"0": np.zeros(3, np.float32)}, "lr": 0.1}, "recorder": FOREIGN}


# --- the published kinds at full size --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=GOLDEN)
def converted(request, tmp_path_factory):
    """(spec, file, folder converted by the command line, seconds it took)."""
    pytest.importorskip("torch")
    spec, folder = golden.load_spec(request.param), tmp_path_factory.mktemp("golden")
    golden.write_pth(spec, folder / "weights.pth")
    started = time.perf_counter()
    assert main([str(folder / "weights.pth"), "--out", str(folder / "out"), *GOLDEN[request.param]]) == 0
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
    apply = jax.jit(build_model(checkpoint.model_config).apply, compiler_options=QUICK_COMPILE)
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
    assert main([str(folder / "out"), "--to-pytorch", str(folder / "back.pth")]) == 0
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
    assert main([str(source), "--to-pytorch", str(tmp_path / "b.pth")]) == 0
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
    assert main([str(tmp_path / "a.pth"), "--to-pytorch", str(tmp_path / "b.pth")]) == 0
    back = torch.load(tmp_path / "b.pth", weights_only=True)["stem.0.weight"]
    assert back.dtype == torch.bfloat16
    assert torch.equal(back, tensors["stem.0.weight"])
