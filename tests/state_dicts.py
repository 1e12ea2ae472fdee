"""State dicts of small models in the released names, written like PyTorch's but without it; and broken ones.

``python -m tests.state_dicts`` converts each broken one and prints the table of docs/weights.md.
"""

import contextlib
import dataclasses
import io
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from convert_weights.__main__ import main as convert
from convert_weights.convert import target_shapes
from convert_weights.kinds import name_map
from convert_weights.layouts import TRANSFORMS, buffers, distances
from tests import hostile_files
from tests.golden import golden
from tests.tiny import get_config
from tramp_jax.config import base

Tensors = dict[str, np.ndarray]
FOREIGN = hostile_files.named("training.script", "Recorder") + b")\x81"  # an instance of a class that does not exist


def small(kind: str) -> Any:
    """A small ``model`` group of one kind. Options that shapes do not show have their published values."""
    model, tiny = base().model.copy_and_resolve_references(), get_config().model
    model.name = kind
    if kind != "former_dfer":
        model.trajectory.update(widths=(32, 32), embed_width=32, blocks_per_stage=1)
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
    """All tensors and buffers of the model of ``config``, by released name. Counters are not zero."""
    pairs, shapes = name_map(config), target_shapes(config)
    tensors = {}
    for pair in pairs:
        shape = TRANSFORMS[pair.transform].backward(np.empty(shapes[pair.target], bool)).shape
        tensors[pair.source] = np.asarray(golden.tensor(pair.source, shape, "float32", seed), np.float32)
    for i, name in enumerate(buffers(pairs)):
        rows = len(tensors.get(name.replace("position_index", "position_bias_table"), ()))
        tensors[name] = distances((rows + 1) // 2) if rows else np.array(1000 + i)
    return tensors


def pth(tree: Any) -> bytes:
    """The file that ``torch.save`` writes for a tree of dictionaries, lists, arrays, plain values and instructions.

    Instructions are bytes.
    """
    storages: dict[str, bytes] = {}
    kinds = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}

    def instructions(value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, dict):
            return hostile_files.mapping({key: instructions(item) for key, item in value.items()})
        if isinstance(value, list):
            return b"](" + b"".join(map(instructions, value)) + b"e"
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


def run_command(arguments: list[str]) -> int:
    """Runs ``python -m convert_weights``; returns its exit code."""
    try:
        return convert(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def assert_same(ours: Mapping[Any, np.ndarray], theirs: Mapping[Any, np.ndarray]) -> None:
    """Equal to the last bit, with the same names, shapes and types."""
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (x.shape, x.dtype), name
        assert ours[name].tobytes() == x.tobytes(), name


# --- broken ones -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Broken:
    """A state dict that must not be converted, and facts that the error must name."""

    what: str
    facts: tuple[str, ...]
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
           ("\n  stem.4.wieght (32, 15, 1, 1)", " stem.4.weight (32, 15, 1, 1)\n",
            "\n  stem.4.weight (32, 15, 1, 1)", "params/trajectory_encoder/stem_2/kernel",
            " stem.4.wieght (32, 15, 1, 1)\n"),
           _changed("skateformer", _rename)),
    Broken("a missing tensor",
           ("s_former.layer4.1.bn2.running_var (16,)", "batch_stats/rgb_encoder/s_former/layer4_1/bn2/var"),
           _changed("former_dfer", _lose)),
    Broken("a missing head", ("head.weight (1, 32)", "head/layer1/kernel", "head.bias (1,)", "--fresh params/head"),
           _changed("skateformer", lambda t: {k: v for k, v in t.items() if not k.startswith("head.")})),
    Broken("an extra tensor", ("fusion.extra.weight (2,)", "--drop 'fusion.extra.*'"),
           _changed("tramp_former", lambda t: t.update({"fusion.extra.weight": np.zeros(2, np.float32)}))),
    Broken("a counter of no layer", ("head.bn.num_batches_tracked ()",),
           _changed("skateformer", lambda t: t.update({"head.bn.num_batches_tracked": np.array(3)}))),
    Broken("a transposed tensor",
           ("stages.0.blocks.0.transformer.mlp.fc1.weight", "(32, 64)", "(64, 32)", "transposed"),
           _changed("skateformer", _transpose)),
    Broken("weights that are integers", ("fc.weight", "int64"),
           _changed("former_dfer", _as_integers)),
    Broken("position indices of another meaning", ("attention.2.relative_position_index (32, 32)",),
           _changed("skateformer", _reindex)),
    Broken("half of the names with `module.`",
           ("module.fc.weight (7, 16)", " fc.weight (7, 16)"),
           _changed("former_dfer", lambda t: t.update({"module.fc.weight": t.pop("fc.weight")}))),
    Broken("one tensor under two names", ("'encoder.joint_person_embedding'", "'joint_person_embedding'", "--drop"),
           _changed("skateformer", lambda t: {f"encoder.{k}": v for k, v in t.items()} | {"joint_person_embedding":
               t["joint_person_embedding"]})),
    Broken("an object in the place of a tensor", ("'fc.bias'", "training.script.Recorder"),
           _changed("former_dfer", lambda t: {"state_dict": t | {"fc.bias": FOREIGN}})),
    Broken("a number in the place of a tensor", ("'fc.bias'", "float"),
           _changed("former_dfer", lambda t: {"state_dict": t | {"fc.bias": 0.5}})),
    Broken("two models in one state dict", ("'s_former.pos_embedding'", "'module.s_former.pos_embedding'", "--drop"),
           _changed("former_dfer", lambda t: {"state_dict": t | {f"module.{name}": x for name, x in t.items()}})),
    Broken("two state dicts", ("'state_dict' with 147", "'model' with 147", "--container 'state_dict'"),
           _changed("former_dfer", lambda t: {"state_dict": t, "model": t})),
    Broken("two state dicts, one inside a list",
           ("'ckpt.models.0'", "'ckpt.models.1.net'", "--container 'ckpt.models.0'"),
           _changed("former_dfer", lambda t: {"ckpt": {"models": [t, {"net": t}]}})),
    Broken("one of its tensors in another place", ("'state_dict' with 147", "'ema' with 1", "--container 'state_dict'"),
           _changed("former_dfer", lambda t: {"state_dict": t, "ema": {"module.fc.bias": t["fc.bias"]}})),
    Broken("one of its tensors beside it",
           ("'' (the top level) with 1", "'state_dict' with 147", "--container 'state_dict'"),
           _changed("former_dfer", lambda t: {"state_dict": t, "fc.bias": t["fc.bias"]})),
    Broken("several groups of unknown tensors",
           ("'' (the top level) with 1", "'a' with 1", "'b.c' with 1", "--container"),
           lambda: {"x": np.zeros(2), "a": {"w": np.zeros(2)}, "b": {"c": {"w": np.zeros(2)}}}),
    Broken("only an optimiser", ("optimiser",), lambda: {"optimizer": {"state": {"w": np.zeros(2)}}}),
    Broken("a tensor of training among those of the model", ("best_acc ()", "--drop 'best_acc'"),
           _changed("former_dfer", lambda t: t | {"epoch": 3, "best_acc": np.array(0.5)})),
    Broken("no state dict", ("1 tensors", "w (2,)", "former_dfer"),
           lambda: {"weights": {"w": np.zeros(2, np.float32)}}),
    Broken("another architecture (ResNet-50)", ("98 tensors", "conv1.weight (64, 3, 7, 7)", "tramp_former"), _resnet),
    Broken("the same, read as Former-DFER", ("\n97 ", "\n  conv1.weight (64, 3, 7, 7)", "\n148 ", "… and 88 more"),
           _resnet, "former_dfer"),
    Broken("Former-DFER read as SkateFormer", ("read as skateformer", "former_dfer; try without --kind"),
           _changed("former_dfer", lambda t: None), "skateformer"),
]  # fmt: skip


def main() -> None:
    print("| state dict | error |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for case in BROKEN:
            pathlib.Path("x.pth").write_bytes(pth(case.tree()))
            stderr = io.StringIO()
            with contextlib.redirect_stderr(stderr):
                status = run_command(["x.pth", "--out", "out", "--kind", case.kind])
            if status != 1 or pathlib.Path("out").exists():
                raise SystemExit(f"{case.what} was converted")
            lines = [line for line in stderr.getvalue().removeprefix("error: x.pth: ").splitlines() if line[:1] != "…"]
            shown = lines if len(lines) < 8 else [*lines[:4], "…"]
            print(f"| {case.what} | {'<br>'.join(line.strip() for line in shown)} |")


if __name__ == "__main__":
    main()
