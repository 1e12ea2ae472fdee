"""State dicts of small models in the released names, written as PyTorch writes them, without PyTorch; and broken ones.

`python -m tests.state_dicts` converts each broken one and prints the table of docs/weights.md.
"""

import contextlib
import dataclasses
import io
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from convert_weights.__main__ import main as convert_main
from convert_weights.convert import distances, target_shapes
from convert_weights.layouts import TRANSFORMS
from convert_weights.names import buffers, name_map
from tests import hostile_files
from tests.golden import golden
from tests.tiny import get_config
from tramp_jax.config import base

Tensors = dict[str, np.ndarray]
FOREIGN = hostile_files.named("training.script", "Recorder") + b")\x81"  # an instance of a class that is nowhere


def small(kind: str) -> Any:
    """A small ``model`` group of one kind, with the published value of all that shapes do not tell."""
    model, tiny = base().model.copy_and_resolve_references(), get_config().model
    model.name = kind
    if kind != "former_dfer":
        model.trajectory.update(widths=tiny.trajectory.widths, embed_width=32, blocks_per_stage=1)
    if kind != "skateformer":
        model.rgb.update({key: tiny.rgb[key] for key in ("widths", "image_size", "spatial_mlp_dim")})
        model.rgb.update({key: tiny.rgb[key] for key in ("temporal_mlp_dim", "temporal_depth")})
    if kind == "tramp_former":
        model.fusion.update(width=32, depth=1)
        model.head.hidden = (16, 8)
        return model
    model.head.update(hidden=(), num_classes=7)
    if kind == "skateformer":
        model.trajectory.length = 256
    else:
        model.rgb.num_frames = 16
    return model


def random_state_dict(config: Any, seed: int = 0) -> Tensors:
    """All tensors and buffers of the model of ``config``, by released name; counters that are not zero."""
    rules, shapes = name_map(config), target_shapes(config)
    tensors = {}
    for rule in rules:
        shape = TRANSFORMS[rule.transform].backward(np.empty(shapes[rule.target], bool)).shape
        tensors[rule.source] = np.asarray(golden.tensor(rule.source, shape, "float32", seed), np.float32)
    for i, name in enumerate(buffers(rules)):
        rows = len(tensors.get(name.replace("position_index", "position_bias_table"), ()))
        tensors[name] = distances((rows + 1) // 2) if rows else np.array(1000 + i)
    return tensors


def pth(tree: Any) -> bytes:
    """What ``torch.save`` writes for a tree of dictionaries, arrays, plain values, and instructions (as bytes)."""
    storages: dict[str, bytes] = {}
    kinds = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}

    def instructions(value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, dict):
            return hostile_files.mapping({key: instructions(item) for key, item in value.items()})
        if not isinstance(value, np.ndarray):
            return hostile_files.plain(value)
        key = str(len(storages))
        if value.size and not any(value.strides):  # one number, however often it is seen
            storages[key] = value.flat[0].tobytes()
        else:
            value = np.ascontiguousarray(value)
            storages[key] = value.tobytes()
        stride = tuple(step // value.itemsize for step in value.strides)
        storage = hostile_files.storage(key, len(storages[key]) // value.itemsize, kinds[str(value.dtype)])
        return hostile_files.tensor(storage, value.shape, stride)

    body = instructions(tree)
    return hostile_files.zip_file(body, storages)


def write(path: pathlib.Path, tree: Any) -> pathlib.Path:
    """Writes ``pth(tree)``."""
    path.write_bytes(pth(tree))
    return path


def assert_same(ours: Mapping[Any, np.ndarray], theirs: Mapping[Any, np.ndarray]) -> None:
    """Equal to the last bit, with the same names, shapes and types."""
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (x.shape, x.dtype), name
        assert ours[name].tobytes() == x.tobytes(), name


# --- broken ones -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Broken:
    """A state dict that must not be converted, and what the error must say."""

    what: str
    error: tuple[str, ...]
    tree: Callable[[], Any]
    kind: str = "auto"


def _changed(kind: str, change: Callable[[Tensors], Any]) -> Callable[[], Any]:
    def tree() -> Any:
        tensors: Any = random_state_dict(small(kind))
        changed = change(tensors)
        return tensors if changed is None else changed

    return tree


def _rename(tensors: Tensors) -> None:
    tensors["stem.4.wieght"] = tensors.pop("stem.4.weight")


def _lose(tensors: Tensors) -> None:
    del tensors["s_former.layer4.1.bn2.running_var"]


def _transpose(tensors: Tensors) -> None:
    name = "stages.0.blocks.0.transformer.mlp.fc1.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def _reindex(tensors: Tensors) -> None:
    tensors["stages.0.blocks.0.transformer.attention.2.relative_position_index"] += 1


def _as_integers(tensors: Tensors) -> None:
    tensors["fc.weight"] = tensors["fc.weight"].astype(np.int64)


def _resnet() -> Tensors:
    """Names and some shapes of a ResNet-50."""
    tensors = {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            for i in (1, 2, 3):
                tensors[f"layer{stage}.{block}.conv{i}.weight"] = np.zeros((64, 8, 1, 1), np.float32)
                tensors[f"layer{stage}.{block}.bn{i}.weight"] = np.zeros(64, np.float32)
    return tensors


BROKEN = [
    Broken("a renamed tensor",
           ("1 without a place in the model:\n  stem.4.wieght (32, 15, 1, 1); closest: stem.4.weight (32, 15, 1, 1)",
            "1 missing in the checkpoint:\n  stem.4.weight (32, 15, 1, 1) (our params/trajectory_encoder/stem_2/ker",
            "; closest: stem.4.wieght (32, 15, 1, 1)"),
           _changed("skateformer", _rename)),
    Broken("a missing tensor",
           ("1 missing in the checkpoint:\n  s_former.layer4.1.bn2.running_var (16,) (our batch_stats/rgb_encoder/",),
           _changed("former_dfer", _lose)),
    Broken("a missing head", ("2 missing in the checkpoint:\n  head.weight (1, 32) (our params/head/layer1/kernel)",
                              "allow that with --fresh params/head"),
           _changed("skateformer", lambda t: {k: v for k, v in t.items() if not k.startswith("head.")})),
    Broken("an extra tensor", ("1 without a place in the model:\n  fusion.extra.weight (2,)",),
           _changed("tramp_former", lambda t: t.update({"fusion.extra.weight": np.zeros(2, np.float32)}))),
    Broken("a counter of no layer", ("1 without a place in the model:\n  head.bn.num_batches_tracked ()",),
           _changed("skateformer", lambda t: t.update({"head.bn.num_batches_tracked": np.array(3)}))),
    Broken("a transposed tensor",
           ("1 of another shape or type:\n  stages.0.blocks.0.transformer.mlp.fc1.weight has shape (32, 64), "
            "the model needs (64, 32); it is transposed",),
           _changed("skateformer", _transpose)),
    Broken("weights that are integers", ("fc.weight holds int64, the model needs floating-point numbers",),
           _changed("former_dfer", _as_integers)),
    Broken("position indices of another meaning", ("attention.2.relative_position_index (32, 32) does not hold what",),
           _changed("skateformer", _reindex)),
    Broken("half of the names with `module.`",
           ("without a place in the model:\n  module.fc.weight (7, 16); closest: fc.weight (7, 16)",),
           _changed("former_dfer", lambda t: t.update({"module.fc.weight": t.pop("fc.weight")}))),
    Broken("one tensor under two names", ("has two names for one tensor",),
           _changed("skateformer", lambda t: {f"encoder.{k}": v for k, v in t.items()} | {"joint_person_embedding":
               t["joint_person_embedding"]})),
    Broken("an object in the place of a tensor", ("'fc.bias' is an object (training.script.Recorder), not a tensor",),
           _changed("former_dfer", lambda t: {"state_dict": t | {"fc.bias": FOREIGN}})),
    Broken("a number in the place of a tensor", ("'fc.bias' is a float, not a tensor",),
           _changed("former_dfer", lambda t: {"state_dict": t | {"fc.bias": 0.5}})),
    Broken("two state dicts", ("holds two state dicts (state_dict, model)",),
           _changed("former_dfer", lambda t: {"state_dict": t, "model": t})),
    Broken("tensors outside the state dict", ("holds tensors outside the state dict ('ema.fc.bias')",),
           _changed("former_dfer", lambda t: {"state_dict": t, "ema": {"fc.bias": t["fc.bias"]}})),
    Broken("no state dict", ("has no state dict, nor one under 'state_dict' or 'model' (it has: weights)",),
           lambda: {"weights": {"w": np.zeros(2, np.float32)}}),
    Broken("another architecture (ResNet-50)", ("its 98 tensors (conv1.weight (64, 3, 7, 7), fc.bias (1000,), layer1.0",
                                                "are of another architecture"), _resnet),
    Broken("the same, read as Former-DFER", ("97 without a place in the model:\n  conv1.weight (64, 3, 7, 7); closest: "
                                             "s_former.conv1.weight (64, 3, 7, 7)", "148 missing in the checkpoint:",
                                             "  … and 88 more"), _resnet, "former_dfer"),
    Broken("Former-DFER read as SkateFormer", ("read as skateformer", "its names look like former_dfer"),
           _changed("former_dfer", lambda t: None), "skateformer"),
]  # fmt: skip


def main() -> None:
    print("| state dict | error |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for case in BROKEN:
            pathlib.Path("x.pth").write_bytes(pth(case.tree()))
            stderr = io.StringIO()
            with contextlib.redirect_stderr(stderr):
                status = convert_main(["x.pth", "--out", "out", "--kind", case.kind])
            if status != 1 or pathlib.Path("out").exists():
                raise SystemExit(f"{case.what} was converted")
            lines = [line for line in stderr.getvalue().removeprefix("error: x.pth: ").splitlines() if line[:1] != "…"]
            shown = lines if len(lines) < 8 else [*lines[:4], "…"]
            print(f"| {case.what} | {'<br>'.join(line.strip() for line in shown)} |")


if __name__ == "__main__":
    main()
