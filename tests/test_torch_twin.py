"""The PyTorch twin against the golden cases, and our JAX model against the twin on small random architectures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import traverse_util
from ml_collections import ConfigDict

from convert_weights.convert import to_variables
from tests.golden import golden
from tests.raises import user_error
from tramp_jax import config as base_config
from tramp_jax.models import build_model

torch = pytest.importorskip("torch")

from convert_weights.torch_encoders import DropPath, SkateAttention  # noqa: E402
from convert_weights.torch_twin import build_twin  # noqa: E402

SKELETON = {
    "channels": "xyz",
    "num_points": 48,  # 24 of each of two people
    "widths": (96, 192, 192, 192),
    "embed_width": 96,
    "mlp_ratio": 4,
    "neighbours": 8,
    "distant": 12,
    "table_frames": 0,
}


def make_config(name: str = "tramp_former", **groups: object) -> ConfigDict:
    """The published ``model`` group with some options changed: a group's options as a dict, others by value."""
    config = base_config.base().model
    config.name = name
    if name != "tramp_former":
        config.head.hidden = ()
    config.update(groups)
    return config


def case(name: str) -> tuple[dict, dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """A golden case: its spec, its checkpoint, and the outputs of the released code."""
    spec = golden.load_spec(name)
    tensors = {k: torch.from_numpy(x) for k, x in golden.state_dict(spec).items()}
    with np.load(golden.HERE / f"{name}.npz") as arrays:
        return spec, tensors, dict(arrays)


def drawn(spec: dict, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(golden.draw(name, shape, seed=spec["input_seed"]))


def index_t(batch: int, length: int) -> torch.Tensor:
    return (2 * torch.arange(length) / length - 1).repeat(batch, 1)


def assert_close(ours: torch.Tensor, golden_array: np.ndarray, tolerance: float = 2e-4) -> None:
    """Asserts equal shapes and a small difference relative to the largest value."""
    ours = ours.detach().numpy()
    assert ours.shape == golden_array.shape
    error = np.abs(ours - golden_array).max() / np.abs(golden_array).max()
    assert error < tolerance


# Golden cases


@pytest.mark.parametrize("length", [64, 128])
def test_golden_trajectory_encoder(length: int) -> None:
    spec, tensors, expected = case(f"skateformer_t{length}_c5")
    model = build_twin(make_config(streams="trajectory", trajectory={"length": length})).eval()
    model.encoder.load_state_dict(tensors, strict=True)
    with torch.inference_mode():
        _, out = model(None, drawn(spec, "traj", (2, 63, length, 5)), index_t(2, length))
    assert_close(out["trajectory_features"], expected.pop("features"))
    for name, array in expected.items():
        stage = out["trajectory_" + name.removesuffix("_mean_over_joints")]
        assert_close(stage.mean(dim=-1).transpose(1, 2), array)


def test_golden_skeleton_classifier() -> None:
    spec, tensors, expected = case("skateformer_ntu60")
    config = make_config("skateformer", trajectory=SKELETON | {"length": 64}, head={"num_classes": 60})
    model = build_twin(config).eval()
    model.load_state_dict(tensors, strict=True)
    with torch.inference_mode():
        logits, _ = model(None, drawn(spec, "skeleton", (2, 3, 64, 24, 2)), index_t(2, 64))
    assert_close(logits, expected["logits"])


def test_golden_frame_classifier() -> None:
    spec, tensors, expected = case("former_dfer_112")
    config = make_config("former_dfer", rgb={"image_size": 112, "num_frames": 16}, head={"num_classes": 7})
    model = build_twin(config).eval()
    model.load_state_dict(tensors, strict=True)
    with torch.inference_mode():
        logits, out = model(drawn(spec, "rgb", (2, 16, 3, 112, 112)), None, None)
    assert_close(out["frame_features"], expected["frame_features"])
    assert_close(out["subclip_features"][:, 0], expected["clip_features"])
    assert_close(logits, expected["logits"])


@pytest.mark.slow
def test_golden_tramp_former() -> None:
    spec, tensors, expected = case("tramp_former_t128")
    model = build_twin(make_config()).eval().to(memory_format=torch.channels_last)  # only for speed
    model.load_state_dict(tensors, strict=True)
    frames, trajectories = drawn(spec, "rgb", (2, 80, 3, 224, 224)), drawn(spec, "traj", (2, 63, 128, 5))
    with torch.inference_mode():  # one clip a layout is enough: clips do not mix
        score, out = model(frames[1:], trajectories[1:], index_t(1, 128))
        model.rgb_encoder.scrambled_frames = True
        score_released, out_released = model(frames[:1], trajectories[:1], index_t(1, 128))
    assert_close(out["subclip_features"], expected["subclip_features"][1:])
    assert_close(out["rgb_features"], expected["rgb_features"][1:])
    assert_close(out["trajectory_features"], expected["traj_features"][1:])
    assert_close(score, expected["score"][1:])
    assert_close(out_released["rgb_features"], expected["rgb_features_released_layout"][:1])
    assert_close(score_released, expected["score_released_layout"][:1])


# Our JAX model against the twin


def small_config(name: str = "tramp_former", **changes: object) -> ConfigDict:
    """A random small architecture with everything in it; ``changes`` by dotted option name."""
    small = {
        "trajectory": {
            "length": 64,
            "widths": (32, 32, 32, 32),
            "blocks_per_stage": 1,
            "embed_width": 32,
            "num_points": 12,
            "neighbours": 4,
            "distant": 3,
        },
        "rgb": {
            "num_frames": 8,
            "image_size": 64,
            "widths": (4, 4, 8, 16),
            "clip_length": 4,
            "spatial_heads": 2,
            "spatial_mlp_dim": 12,
            "temporal_depth": 2,
            "temporal_heads": 4,
            "temporal_mlp_dim": 24,
        },
        "fusion": {"width": 32, "depth": 2, "heads": 4, "mlp_ratio": 2},
    }
    config = make_config(name, **small)
    config.update_from_flattened_dict(changes)
    return config


def random_twin(config: ConfigDict) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """A twin in evaluation mode with the golden cases' kind of random weights, and those weights."""
    model = build_twin(config).eval()
    keys = [(name, tuple(x.shape), str(x.numpy().dtype)) for name, x in model.state_dict().items()]
    tensors = golden.state_dict({"keys": keys, "seed": 7})
    model.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()}, strict=True)
    return model, tensors


def small_inputs(config: ConfigDict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, trajectories and times of two clips, in PyTorch's order."""
    c, side = config.trajectory, config.rgb.image_size
    return (
        golden.draw("rgb", (2, config.rgb.num_frames, 3, side, side)),
        golden.draw("traj", (2, c.num_points, c.length, len(c.channels))),
        index_t(2, c.length).numpy(),
    )


def as_jax(frames: np.ndarray, trajectories: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, ...]:
    """Inputs in our order."""
    return rearrange(frames, "b f c h w -> b f h w c"), rearrange(trajectories, "b v t c -> b t v c"), times


def assert_outputs_agree(score, out, jax_score, jax_out) -> None:
    np.testing.assert_allclose(jax_score, score.detach(), rtol=0, atol=1e-5 * score.abs().max().item())
    assert {name for name in jax_out if not name.endswith("_tokens")} == set(out)  # whose means both models return
    for name, array in out.items():
        array = rearrange(array, "b c t v -> b t v c") if "stage" in name else array
        scale = array.abs().max().item()
        np.testing.assert_allclose(jax_out[name], array.detach(), rtol=0, atol=1e-5 * scale, err_msg=name)


def test_jax_outputs_and_gradients() -> None:
    config = small_config(
        **{
            "trajectory.bias_order": "time",
            "trajectory.channels": "xy",
            "rgb.scrambled_frames": True,
            "rgb.image_size": 32,
            "head.num_classes": 3,
        }
    )
    twin, tensors = random_twin(config)
    inputs = small_inputs(config)
    score, out = twin(*map(torch.from_numpy, inputs))
    score.square().mean().backward()
    # Gradients change their layout like their parameters. Statistics have none: zeros fill their places.
    zeros = {name: np.zeros_like(x) for name, x in tensors.items() if x.dtype == np.float32}
    grads = to_variables(zeros | {name: p.grad.numpy() for name, p in twin.named_parameters()}, config)["params"]

    model, variables = build_model(config), to_variables(tensors, config)

    def loss(params: dict) -> tuple[jax.Array, tuple]:
        score, out = model.apply({**variables, "params": params}, *as_jax(*inputs))
        return jnp.mean(jnp.square(score)), (score, out)

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, outputs), jax_grads = value_and_grad(variables["params"])
    assert_outputs_agree(score, out, *outputs)
    grads, jax_grads = traverse_util.flatten_dict(grads, sep="/"), traverse_util.flatten_dict(jax_grads, sep="/")
    assert set(grads) == set(jax_grads)
    largest = max(np.abs(grad).max() for grad in grads.values())
    for name, grad in grads.items():
        # Gradients that are zero in exact arithmetic (query and key maps before a single key) may hold noise.
        atol = 1e-4 * np.abs(grad).max() + 1e-7 * largest
        np.testing.assert_allclose(jax_grads[name], grad, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tramp_former", {"streams": "trajectory", "trajectory.length": 128, "head.hidden": ()}),
        ("tramp_former", {"streams": "rgb", "head.hidden": (8,)}),
        ("skateformer", {"trajectory.table_frames": 0, "trajectory.bias_order": "time", "head.num_classes": 5}),
        ("former_dfer", {"rgb.image_size": 72, "rgb.scrambled_frames": True}),
    ],
    ids=["trajectory", "rgb", "skateformer", "former_dfer"],
)
def test_jax_outputs(name: str, changes: dict) -> None:
    config = small_config(name, **changes)
    twin, tensors = random_twin(config)
    inputs = small_inputs(config)
    with torch.inference_mode():
        score, out = twin(*map(torch.from_numpy, inputs))
    apply = jax.jit(build_model(config).apply)
    assert_outputs_agree(score, out, *apply(to_variables(tensors, config), *as_jax(*inputs)))


# Training mode


def test_training_mode_is_random_and_evaluation_is_not() -> None:
    config = small_config(**{"trajectory.drop_path": 0.5})
    twin, _ = random_twin(config)
    inputs = [torch.from_numpy(x) for x in small_inputs(config)]
    with torch.inference_mode():
        assert torch.equal(twin(*inputs)[0], twin(*inputs)[0])
        twin.train()
        assert not torch.equal(twin(*inputs)[0], twin(*inputs)[0])


def test_published_dropout_rates() -> None:
    modules = list(build_twin(make_config()).modules())
    drop_paths = [module.rate for module in modules if isinstance(module, DropPath)]
    np.testing.assert_allclose(drop_paths, np.linspace(0, 0.2, 8), rtol=1e-6)
    in_attention = [module for module in modules if isinstance(module, SkateAttention)]
    assert [module.drop.p for module in in_attention] == [0.5] * 32
    assert sum(module.p for module in modules if isinstance(module, torch.nn.Dropout)) == 32 * 0.5


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    y = DropPath(0.2).train()(torch.ones(20_000, 2, 3))
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert abs(y.mean().item() - 1) < 0.02


def test_parameter_counts() -> None:
    model = build_twin(make_config())
    millions = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (model.encoder, model.rgb_encoder, model)]
    assert [round(m, 2) for m in millions] == [4.56, 18.07, 25.17]


def test_unsuitable_options_are_refused() -> None:
    with user_error("bad_option", "model.name", "resnet"):
        build_twin(make_config("resnet"))
    with user_error("no_counterpart", "head.hidden"):
        build_twin(make_config("skateformer", head={"hidden": (4,)}))
