"""Files written by PyTorch and by the safetensors package, if they are installed, are read bit for bit."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert_weights import reader
from convert_weights.safe_globals import Placeholder
from tests.raises import user_error

SETTINGS = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu",
)  # fmt: skip
VIEWS = {
    "whole": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1),
    "offset": lambda x: x[1:],
    "every second": lambda x: x[..., ::2],
    "expanded": lambda x: x[:1].expand(5, *x.shape[1:]),
    "scalar": lambda x: x.reshape(-1)[0],
    "empty": lambda x: x[:0],
    "diagonal": lambda x: x.diagonal(0, 0, -1),
}


def _bits(array):
    """An array's bytes, for an exact comparison of any type, NaN included."""
    return np.ascontiguousarray(array).view(np.uint8) if array.ndim else np.frombuffer(array.tobytes(), np.uint8)


def _random(torch, dtype, shape, seed):
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    numbers = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, (*shape, size), np.uint8)
    return torch.from_numpy(numbers).view(getattr(torch, dtype)).squeeze(-1)


@settings(SETTINGS, max_examples=150)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    views=st.lists(st.sampled_from(sorted(VIEWS)), min_size=1, max_size=3),
    modern=st.booleans(),
    seed=st.integers(0, 99),
)
def test_tensors_written_by_pytorch(torch, tmp_path_factory, dtype, shape, views, modern, seed):
    base = _random(torch, dtype, shape, seed)
    tensors = {f"{i} {view}": VIEWS[view](base) for i, view in enumerate(views)}
    path = tmp_path_factory.getbasetemp() / "torch.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=modern)
    tree = reader.read(path).tree
    assert list(tree) == list(tensors)
    for name, x in tensors.items():
        assert tree[name].dtype == np.dtype(getattr(ml_dtypes, dtype, dtype)), name
        assert tree[name].shape == tuple(x.shape), name
        expected = (
            x.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy()
            if x.numel()
            else np.empty(0, np.uint8)
        )
        np.testing.assert_array_equal(_bits(tree[name]).reshape(-1), expected, err_msg=name)
    storages = {id(tree[name].base) for name, x in tensors.items() if x.numel()}
    assert len(storages) <= 1, "a shared storage was read more than once"


@dataclasses.dataclass
class RecorderMeter:
    """Plays a training script's own class inside a trained checkpoint."""

    losses: np.ndarray


@pytest.mark.parametrize("modern", [True, False])
def test_trained_checkpoint(torch, tmp_path, modern):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    path = tmp_path / "model_best.pth"
    saved = {
        "epoch": 7,
        "model": {f"module.{key}": value for key, value in model.state_dict().items()},
        "best_pho": np.float64(0.75),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]).state_dict(),
        "recorder": RecorderMeter(np.zeros((3, 2))),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
    }
    torch.save(saved, path, _use_new_zipfile_serialization=modern)
    checkpoint = reader.read(path)
    tree = checkpoint.tree
    assert checkpoint.placeholders == ("recorder: tests.test_reader_torch.RecorderMeter",)
    assert (tree["epoch"], tree["best_pho"]) == (7, 0.75)
    assert (tree["size"], tree["dtype"], tree["device"]) == ((2, 3), "torch.bfloat16", "cpu")
    assert tree["parameter"].tolist() == [1, 1]
    assert tree["scheduler"]["milestones"] == {3: 1, 5: 1}
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(tree["model"][f"module.{key}"], value.numpy())
    moment = optimizer.state_dict()["state"][0]["exp_avg"]
    np.testing.assert_array_equal(tree["optimizer"]["state"][0]["exp_avg"], moment.numpy())


def test_module_state_dict_with_metadata(torch, tmp_path):
    state = torch.nn.Linear(2, 2).state_dict()
    assert state._metadata
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    assert list(reader.read(tmp_path / "w.pth").tree["state_dict"]) == ["weight", "bias"]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated; files with such tensors are around
@pytest.mark.parametrize("kind", ["quantized", "sparse", "conjugated", "array", "module"])
def test_what_is_not_a_plain_tensor_is_a_placeholder(kind, torch, tmp_path):
    thing = {
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "sparse": lambda: torch.eye(2).to_sparse(),
        "conjugated": lambda: torch.ones(2, dtype=torch.complex64).conj(),
        "array": lambda: np.ones(2),
        "module": lambda: torch.nn.Linear(1, 1),
    }[kind]()
    torch.save({"w": torch.ones(1), "thing": thing}, tmp_path / "w.pth")
    checkpoint = reader.read(tmp_path / "w.pth")
    assert isinstance(checkpoint.tree["thing"], Placeholder)
    assert [line.split(": ")[0] for line in checkpoint.placeholders] == ["thing"]


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated; such files are around
def test_torchscript_is_refused(torch, tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), tmp_path / "script.pt")
    with user_error("unsupported_file", "script.pt", "TorchScript"):
        reader.read(tmp_path / "script.pt")


@SETTINGS
@given(
    dtypes=st.lists(st.sampled_from([name for name in DTYPES if "fnuz" not in name]), min_size=1, max_size=4),
    shape=st.lists(st.integers(0, 4), max_size=3),
    metadata=st.none() | st.just({"format": "pt"}),
)
def test_safetensors_written_by_the_package(dtypes, shape, metadata, tmp_path_factory):
    numpy_writer = pytest.importorskip("safetensors.numpy")
    known = [np.dtype(getattr(ml_dtypes, name, name)) for name in dtypes if name != "complex128"]
    rng = np.random.default_rng(0)
    tensors = {}
    for i, dtype in enumerate(known):
        raw = rng.integers(0, 2 if dtype.kind == "b" else 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
        tensors[f"t{i}"] = raw.view(dtype).reshape(shape)
    if not tensors:
        return
    path = tmp_path_factory.getbasetemp() / "package.safetensors"
    numpy_writer.save_file(tensors, path, metadata)
    tree = reader.read(path).tree
    assert tree.keys() == tensors.keys()
    for name, x in tensors.items():
        assert (tree[name].dtype, tree[name].shape, tree[name].tobytes()) == (x.dtype, x.shape, x.tobytes())
