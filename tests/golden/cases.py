"""The golden cases: outputs of the released code, and how far ours are from them.

Weights and inputs are redrawn by ``golden.py``; the ``.npz`` files hold what the released PyTorch code computed on
them. The tests and the table in docs/parity.md come from the same functions:

    python -m tests.golden.cases            # prints the table
    python -m tests.golden.cases --write    # and puts it into docs/parity.md
"""

import argparse
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from convert_weights.convert import to_variables
from convert_weights.kinds import name_map
from convert_weights.layouts import TRANSFORMS
from tests.golden import golden
from tramp_jax import config as defaults
from tramp_jax import losses, optimizer, sharding, training_step
from tramp_jax.batches import augment, trajectories, view
from tramp_jax.batches.pipeline import Batch
from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip, ClipInfo
from tramp_jax.models import Inputs, build_model

FEATURE_TOLERANCE, LOSS_TOLERANCE, NORM_TOLERANCE, BMC_TOLERANCE = 2e-4, 1e-3, 2e-3, 1e-5


class Row(NamedTuple):
    """Largest error of one quantity, relative to the largest value of its reference."""

    quantity: str
    error: float
    tolerance: float


def _row(quantity: str, ours: Any, reference: np.ndarray, tolerance: float = FEATURE_TOLERANCE) -> Row:
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape, (quantity, ours.shape, reference.shape)
    return Row(quantity, float(np.max(np.abs(ours - reference)) / np.max(np.abs(reference))), tolerance)


def _load(case: str) -> tuple[dict, np.lib.npyio.NpzFile]:
    return golden.load_spec(case), np.load(golden.HERE / f"{case}.npz")


def _trajectories(spec: dict, batch: int, length: int) -> np.ndarray:
    """Ours is (B, T, V, C), the released order is (B, V, T, C)."""
    return golden.draw("traj", (batch, 63, length, 5), seed=spec["input_seed"]).transpose(0, 2, 1, 3)


def _frames(spec: dict, shape: tuple[int, ...]) -> np.ndarray:
    """Ours is (B, F, H, W, 3), the released order is (B, F, 3, H, W)."""
    return golden.draw("rgb", shape, seed=spec["input_seed"]).transpose(0, 1, 3, 4, 2)


def _index_t(batch: int, length: int) -> np.ndarray:
    return np.tile(view.index_t(np.arange(length), length), (batch, 1))


def skateformer(length: int) -> Iterator[Row]:
    """The trajectory encoder alone, at full size."""
    case = f"skateformer_t{length}_c5"
    spec, reference = _load(case)
    config = defaults.base().model
    config.update(name="skateformer")
    config.trajectory.length = length
    config.head.update(hidden=(), num_classes=1)
    # The encoder is published without a head: give it one that outputs nothing.
    head = {"head.weight": np.zeros((1, 256), np.float32), "head.bias": np.zeros(1, np.float32)}
    variables = to_variables(golden.state_dict(spec) | head, config)
    _, out = jax.jit(build_model(config).apply)(variables, None, _trajectories(spec, 2, length), _index_t(2, length))
    yield _row("features", out["trajectory_features"], reference["features"])
    for stage in range(4):
        name = f"stage_{stage}_mean_over_joints"
        if name in reference:
            yield _row(f"stage {stage + 1}", np.mean(out[f"trajectory_stage_{stage}"], axis=2), reference[name])


def skeleton_config() -> Any:
    """The published skeleton model (NTU-60, two people of 24 joints)."""
    config = defaults.base().model
    config.update(name="skateformer")
    config.trajectory.update(length=64, num_points=48, widths=(96, 192, 192, 192), embed_width=96, mlp_ratio=4)
    config.trajectory.update(channels="xyz", neighbours=8, distant=12, table_frames=0)
    config.head.update(hidden=(), num_classes=60)
    return config


def skateformer_ntu60() -> Iterator[Row]:
    """The skeleton model with its person axis, own-size tables and head."""
    spec, reference = _load("skateformer_ntu60")
    config = skeleton_config()
    skeleton = golden.draw("skeleton", (2, 3, 64, 24, 2), seed=spec["input_seed"]).transpose(0, 2, 4, 3, 1)
    variables = to_variables(golden.state_dict(spec), config)
    logits, _ = jax.jit(build_model(config).apply)(variables, None, skeleton, _index_t(2, 64))
    yield _row("logits", logits, reference["logits"])


def former_dfer_112() -> Iterator[Row]:
    """The frame encoder at 112 pixels with its head."""
    spec, reference = _load("former_dfer_112")
    config = defaults.base().model
    config.update(name="former_dfer")
    config.rgb.update(image_size=112, num_frames=16)
    config.head.update(hidden=(), num_classes=7)
    variables = to_variables(golden.state_dict(spec), config)
    logits, out = jax.jit(build_model(config).apply)(variables, _frames(spec, (2, 16, 3, 112, 112)), None, None)
    yield _row("frame features", out["frame_features"], reference["frame_features"])
    yield _row("clip features", out["subclip_features"][:, 0], reference["clip_features"])
    yield _row("logits", logits, reference["logits"])


def tramp_former(released_layout: bool) -> Iterator[Row]:
    """The whole model on 80 frames and 128 trajectory points, with frames right or as released."""
    spec, reference = _load("tramp_former_t128")
    config = defaults.base()
    config.model.rgb.scrambled_frames = released_layout
    variables = to_variables(golden.state_dict(spec), config.model)
    frames = _frames(spec, (2, 80, 3, 224, 224))
    score, out = jax.jit(build_model(config.model).apply)(
        variables, frames, _trajectories(spec, 2, 128), _index_t(2, 128)
    )
    suffix = "_released_layout" if released_layout else ""
    yield _row("rgb features", out["rgb_features"], reference[f"rgb_features{suffix}"])
    yield _row("score", score, reference[f"score{suffix}"])
    if not released_layout:
        yield _row("sub-clip features", out["subclip_features"], reference["subclip_features"])
        yield _row("trajectory features", out["trajectory_features"], reference["traj_features"])


def train_step() -> Iterator[Row]:
    """Gradients of every parameter, and three steps of our own training step, on both streams."""
    spec, reference = _load("train_step_t64")
    config = defaults.base()
    config.model.trajectory.update(length=64, attention_dropout=0.0, drop_path=0.0)
    config.model.rgb.num_frames = 16
    config.augment.update(crop=False, flip=0.0, reverse_time=0.0)
    variables = to_variables(golden.state_dict(spec), config.model)
    frames, labels = _frames(spec, (4, 16, 3, 224, 224)), reference["labels"]
    inputs = {"trajectories": _trajectories(spec, 4, 64), "index_t": _index_t(4, 64)}
    model, loss_of = build_model(config.model), losses.build_loss(config)
    parameters = {r.source: r for r in name_map(config.model) if r.target[0] == "params"}
    names = [str(name) for name in reference["param_names"]]

    def objective(params: Any, batch_stats: Any, frames: np.ndarray, inputs: dict) -> Any:
        score, _ = model.apply({"params": params, "batch_stats": batch_stats}, frames, **inputs)
        return loss_of(score, labels), score

    evaluate = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, score), gradients = evaluate(variables["params"], variables["batch_stats"], frames, inputs)
    yield _row("evaluation score", score, reference["eval_score"], LOSS_TOLERANCE)
    yield _row("evaluation loss", loss, reference["eval_loss"], LOSS_TOLERANCE)
    in_torch = {name: _in_torch(gradients, parameters[name]) for name in names}
    probes = [np.sum(in_torch[n] * golden.draw(f"probe/{n}", in_torch[n].shape, 0), dtype=np.float64) for n in names]
    norms = reference["eval_grad_norm"]
    yield _per_parameter("gradient norms", [np.linalg.norm(in_torch[n]) for n in names], norms, norms)
    yield _per_parameter("gradient directions", probes, reference["eval_grad_probe"], norms)

    mesh = sharding.data_mesh()
    sgd = optimizer.build_optimizer(config.optimizer, lambda step: 1e-4)
    state = training_step.TrainState(jnp.int32(0), variables, sgd.init(variables["params"]))
    state = jax.device_put(jax.tree.map(jnp.array, state), sharding.replicated(mesh))
    step = training_step.build_train_step(config, loss_of, sgd, mesh)
    # The step normalises 0-255 itself: give it the frames that become the golden input.
    pixels = (frames * np.array(augment.IMAGENET_STD) + np.array(augment.IMAGENET_MEAN)).astype(np.float32) * 255
    batch = sharding.put(Batch(Inputs(frames=pixels, **inputs), labels), mesh)
    step_losses = []
    for i in range(3):
        state, measured = step(state, batch, None)
        step_losses.append(float(measured["loss"]))
        if i == 0:
            statistics = {
                r.source: _in_torch(state.variables["batch_stats"], r)
                for r in name_map(config.model)
                if r.target[0] == "batch_stats"
            }
            ours = [np.linalg.norm(statistics[str(name)]) for name in reference["bn_names"]]
            yield _per_parameter("batch statistics after a step", ours, reference["bn_norm_after_1"])
            momentum = optax.tree.get(state.opt_state, "trace")  # after one step, the gradient itself
            norms = reference["train_grad_norm"]
            # A bias in front of a batch normalisation has no gradient but rounding.
            scale = np.where(np.char.endswith(names, "reduction.bias"), 1e-4 * np.max(norms), norms)
            ours = [np.linalg.norm(_in_torch(momentum, parameters[name])) for name in names]
            yield _per_parameter("gradient norms through batch statistics", ours, norms, scale)
    yield _row("training losses", step_losses, reference["train_losses"], LOSS_TOLERANCE)
    ours = [np.linalg.norm(_in_torch(state.variables["params"], parameters[name])) for name in names]
    yield _per_parameter("parameters after 3 steps", ours, reference["param_norm_after"])
    after, _ = jax.jit(model.apply)(jax.device_get(state.variables), frames, **inputs)
    yield _row("score after 3 steps", after, reference["score_after"], LOSS_TOLERANCE)


def _in_torch(tree: Any, rule: Any) -> np.ndarray:
    flat = traverse_util.flatten_dict(tree)
    return TRANSFORMS[rule.transform].backward(np.asarray(flat[rule.target[1:]]))


def _per_parameter(quantity: str, ours: Any, reference: np.ndarray, scale: np.ndarray | None = None) -> Row:
    """The largest error of any one parameter relative to its own ``scale``, and to 1e-5 of the largest where that is
    less: the q and k maps of the fusion have no gradient but rounding."""
    scale = np.abs(reference) if scale is None else scale
    error = np.abs(np.array(ours) - reference) / np.maximum(scale, 1e-5 * np.max(scale))
    return Row(quantity, float(np.max(error)), NORM_TOLERANCE)


def bmc_loss() -> Iterator[Row]:
    """Balanced MSE, its gradient, and its value with the arguments exchanged."""
    reference = np.load(golden.HERE / "bmc_loss.npz")
    for i in range(4):
        score, target, sigma = (reference[f"{name}_{i}"] for name in ("pred", "label", "sigma"))
        loss, gradient = jax.value_and_grad(losses.bmc)(score, target, sigma)
        swapped = losses.bmc(score, target, sigma, swapped=True)
        # A batch of one has no loss: compare absolutely.
        for name, ours, key in (
            ("loss", loss, "loss"),
            ("gradient", gradient, "grad"),
            ("swapped", swapped, "loss_swapped"),
        ):
            theirs = reference[f"{key}_{i}"]
            error = np.max(np.abs(np.asarray(ours) - theirs)) / max(float(np.max(np.abs(theirs))), 1.0)
            yield Row(f"{name}, batch of {len(score)}", float(error), BMC_TOLERANCE)


def trajectory_prep() -> Iterator[Row]:
    """Landmarks and colours to the model's trajectory, centred as released: equal to the last bit."""
    reference = np.load(golden.HERE / "trajectory_prep.npz")
    for n, length, seed in ((50, 128, 61), (200, 128, 62)):
        points = np.round(128 + 40 * golden.draw("landmarks73", (n, 73, 2), seed)).astype(np.float32)
        colours = np.clip(np.round(128 + 50 * golden.draw("pixels71", (n, 71, 3), seed)), 0, 255).astype(np.uint8)
        clip = Clip(
            ClipInfo("", "", "", 0.0, n), points, "insightface73", colours[:, landmarks.LAYOUTS["insightface71"].slots]
        )
        whole = trajectories.trajectory(clip, "xyrgb", normalise="first_frame")
        taken = view.trajectory_numbers(n, length)
        key = f"n{n}_len{length}_seed{seed}"
        yield _row(f"{n} frames", whole[taken].transpose(1, 0, 2), reference[f"traj_{key}"])._replace(tolerance=0.0)
        yield _row(f"{n} frames, positions", view.index_t(taken, length), reference[f"index_t_{key}"])._replace(
            tolerance=0.0
        )


CASES: dict[str, Callable[[], Iterator[Row]]] = {
    "skateformer_t128_c5": lambda: skateformer(128),
    "skateformer_t64_c5": lambda: skateformer(64),
    "skateformer_ntu60": skateformer_ntu60,
    "former_dfer_112": former_dfer_112,
    "tramp_former_t128": lambda: tramp_former(released_layout=False),
    "tramp_former_t128, frames as released": lambda: tramp_former(released_layout=True),
    "train_step_t64": train_step,
    "bmc_loss": bmc_loss,
    "trajectory_prep": trajectory_prep,
}


def table() -> str:
    """All cases as a Markdown table."""
    lines = ["| case | quantity | largest relative error | tolerance |", "|---|---|---|---|"]
    for case, rows in CASES.items():
        lines += [f"| {case} | {row.quantity} | {row.error:.1e} | {row.tolerance:.0e} |" for row in rows()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="How far our outputs are from the released code's.")
    parser.add_argument("--write", action="store_true", help="put the table into docs/parity.md")
    write, lines = parser.parse_args().write, table()
    print(lines)
    if write:
        path = pathlib.Path(__file__).parents[2] / "docs" / "parity.md"
        begin, end = "<!-- golden table: begin -->", "<!-- golden table: end -->"
        before, rest = path.read_text().split(begin)
        path.write_text(f"{before}{begin}\n{lines}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
