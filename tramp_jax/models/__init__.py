"""The networks. ``build_model(config.model)`` builds one, ``apply`` calls it on ``Inputs``."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from tramp_jax import channels
from tramp_jax.config import reads_frames, reads_trajectories, streams
from tramp_jax.errors import UserError
from tramp_jax.models import initial
from tramp_jax.models.former_dfer import FormerDFER
from tramp_jax.models.fusion import FUSIONS, Fusion
from tramp_jax.models.inputs import Inputs
from tramp_jax.models.skateformer import SkateFormer, partitions
from tramp_jax.models.tramp_former import Ensemble, Head, TrampFormer

LATE = "late"  # the name of the fusion of scores instead of features
RIDGE = "ridge"  # the regression's name next to the model's modules in "batch_stats", which no gradient changes
Model = TrampFormer | Ensemble

__all__ = ["Inputs", "Model", "abstract_variables", "apply", "build_model", "init_variables", "input_shapes"]


def build_model(config: ml_collections.ConfigDict) -> Model:
    """Builds the flax module of a ``model`` group (``tramp_jax.config.MODEL``).

    Raises:
      UserError: bad_option, if options contradict each other.
    """
    if config.members > 1 and (config.name != "tramp_former" or config.streams != "trajectory"):
        raise UserError(
            "bad_option",
            f"model.members is {config.members}, but only models with model.streams=trajectory can train side by side; "
            "train several runs with different seeds and give all of them to tramp-jax score",
        )
    if config.ridge and (config.name != "tramp_former" or config.streams == "rgb" or config.head.num_classes):
        raise UserError(
            "bad_option",
            "model.ridge is on, but only a model.name=tramp_former that reads trajectories and predicts scores can "
            "have a ridge regression beside it",
        )
    both = streams(config) == "both"
    trajectory_encoder = _trajectory_encoder(config) if reads_trajectories(config) else None
    if both and config.trajectory.widths[-1] != config.fusion.width:
        raise UserError(
            "bad_option",
            f"model.fusion.width is {config.fusion.width}, but the last of model.trajectory.widths is "
            f"{config.trajectory.widths[-1]}; make them equal",
        )
    model = TrampFormer(
        trajectory_encoder=trajectory_encoder,
        rgb_encoder=_rgb_encoder(config) if reads_frames(config) else None,
        fusion=_fusion(config) if both else None,
        head=_head(config),
        trajectory_head=_head(config) if is_late_fusion(config) else None,
        width=None if config.name == "former_dfer" else config.fusion.width,
    )
    return model if config.members == 1 else Ensemble(model, config.members)


def apply(model: Model, variables: Any, inputs: Inputs, **options: Any) -> Any:
    """Calls a model on ``Inputs`` whose frames are normalised and at the model's size.

    Args:
      options: more arguments for flax's ``apply`` or the model's ``__call__``: ``train``, ``rngs``, ``mutable``, …

    Returns:
      ``(score, out)``, see ``TrampFormer.__call__``; with ``mutable``, this pair and the updated collections. If the
      variables have a ridge regression, the score is the mean of the network's and the regression's, but not in
      training, where the network learns by itself.
    """
    found = model.apply(
        variables,
        inputs.frames,
        inputs.trajectories,
        inputs.index_t,
        frame_index=inputs.frame_index,
        frame_features=inputs.frame_features,
        **options,
    )
    regression = variables.get("batch_stats", {}).get(RIDGE)
    if regression is None or options.get("train"):
        return found
    score, out = found
    linear = channel_means(inputs.trajectories) @ regression["kernel"] + regression["bias"]
    return (score + linear) / 2, out


def channel_means(trajectories: Any) -> jax.Array:
    """What the ridge regression reads: the means over time (B, V · C) of the trajectory encoder's input."""
    return jnp.mean(trajectories, axis=1).reshape(len(trajectories), -1)


def _trajectory_encoder(config: ml_collections.ConfigDict) -> SkateFormer:
    c = config.trajectory
    if not c.widths:
        raise UserError("bad_option", "model.trajectory.widths is empty; give a width for each stage")
    names = channels.names(c.channels)
    if len(c.input_scale) not in (1, len(names)):
        raise UserError(
            "bad_option",
            f"model.trajectory.input_scale has {len(c.input_scale)} factors for {len(names)} channels "
            f"({c.channels}); give one for all or one each",
        )
    if c.embed_width != c.widths[0]:
        raise UserError(
            "bad_option",
            f"model.trajectory.embed_width is {c.embed_width}, but the first of model.trajectory.widths is "
            f"{c.widths[0]}; make them equal",
        )
    for part, whole in (("neighbours", "num_points"), ("distant", "num_points"), ("patch", "length")):
        if c[whole] % c[part]:
            raise UserError(
                "bad_option",
                f"model.trajectory.{part} is {c[part]}, which does not divide model.trajectory.{whole}={c[whole]}",
            )
    _check_divisible("model.trajectory.widths", c.widths, 32)
    return SkateFormer(ml_collections.FrozenConfigDict(c), partitions(c), jnp.dtype(config.precision), config.remat)


def _rgb_encoder(config: ml_collections.ConfigDict) -> FormerDFER:
    c = config.rgb
    if len(c.widths) != 4:
        raise UserError("bad_option", f"model.rgb.widths is {tuple(c.widths)}; the frame encoder has 4 stages")
    if c.num_frames % c.clip_length:
        raise UserError(
            "bad_option",
            f"model.rgb.num_frames is {c.num_frames}; it must be a multiple of model.rgb.clip_length={c.clip_length}",
        )
    _check_divisible("model.rgb.widths", c.widths[2:3], c.spatial_heads)
    _check_divisible("model.rgb.widths", c.widths[3:4], c.temporal_heads)
    return FormerDFER(ml_collections.FrozenConfigDict(c), jnp.dtype(config.precision), config.remat)


def is_late_fusion(config: ml_collections.ConfigDict) -> bool:
    """Whether the model of a ``model`` group scores each stream by itself."""
    return streams(config) == "both" and config.fusion.name == LATE


def separate_losses(config: ml_collections.ConfigDict) -> bool:
    """Whether the model's output in training has several scores per clip in its second axis, each with its own loss."""
    return config.members > 1 or is_late_fusion(config)


def _fusion(config: ml_collections.ConfigDict) -> Fusion | None:
    """The fusion of features; None for late fusion, which fuses scores."""
    c = config.fusion
    if c.query != "rgb" and c.name != "tramp":
        raise UserError(
            "bad_option",
            f"model.fusion.query is {c.query}, but only model.fusion.name=tramp lets you choose the query, not "
            f"{c.name}; set it to rgb",
        )
    fusion = FUSIONS.get(c.name)
    attends = fusion is not None and fusion.attends
    if c.tokens != "mean" and not attends:
        raise UserError(
            "bad_option",
            f"model.fusion.tokens is {c.tokens}, but model.fusion.name={c.name} has no attention and takes one token "
            "per stream; set it to mean",
        )
    if attends:
        _check_divisible("model.fusion.width", [c.width], c.heads)
    if fusion is None:
        return None
    return fusion(c.depth, c.heads, c.mlp_ratio, c.query, c.tokens, jnp.dtype(config.precision))


def _check_divisible(option: str, widths: Sequence[int], parts: int) -> None:
    """Checks that channels can be cut into equal groups or heads."""
    uneven = [width for width in widths if width % parts]
    if uneven:
        cure = f"use a multiple of {parts}, the number of groups or heads"
        raise UserError("bad_option", f"{option}: {uneven[0]} channels cannot be divided evenly; {cure}")


def _head(config: ml_collections.ConfigDict) -> Head:
    return Head(tuple(config.head.hidden), config.head.num_classes)


def input_shapes(config: ml_collections.ConfigDict, batch: int) -> dict[str, tuple[int, ...] | None]:
    """Shapes of ``frames``, ``trajectories`` and ``index_t``, in this order; None for what the model does not read."""
    rgb, trajectory = config.rgb, config.trajectory
    shapes: dict[str, tuple[int, ...] | None] = {"frames": None, "trajectories": None, "index_t": None}
    if reads_frames(config):
        shapes["frames"] = (batch, rgb.num_frames, rgb.image_size, rgb.image_size, 3)
    if reads_trajectories(config):
        places = trajectory.length // trajectory.patch
        shapes["trajectories"] = (batch, places, trajectory.num_points, len(channels.names(trajectory.channels)))
        shapes["index_t"] = (batch, places)
    return shapes


def abstract_inputs(config: ml_collections.ConfigDict) -> list[jax.ShapeDtypeStruct | None]:
    """The inputs of ``input_shapes`` for one clip, as shapes and types."""
    shapes = input_shapes(config, batch=1).values()
    return [None if shape is None else jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


def abstract_variables(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Shapes and types of ``init_variables``, without computing it."""
    cached = _abstract_variables(ml_collections.FrozenConfigDict(config))
    return jax.tree.map(lambda x: x, cached)  # new dicts, which the caller may change


@functools.lru_cache(maxsize=4)  # tracing the model takes a second, and a run asks several times
def _abstract_variables(config: ml_collections.FrozenConfigDict) -> dict[str, Any]:
    return _collections(jax.eval_shape(build_model(config).init, jax.random.key(0), *abstract_inputs(config)), config)


def count_parameters(config: ml_collections.ConfigDict) -> int:
    """Number of trainable parameters of the model of a ``model`` group."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_variables(config)["params"]))


def init_variables(config: ml_collections.ConfigDict, key: jax.Array) -> dict[str, Any]:
    """Random initial ``{"params", "batch_stats"}``; the latter is empty if the model has no batch normalisation."""
    return _collections(initial.draw(build_model(config).init, key, *abstract_inputs(config)), config)


def _collections(variables: Any, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Both collections of a module's variables, with a ridge regression that predicts 0 if ``model.ridge`` is on.

    ``tramp_jax.ridge`` fits it later.
    """
    batch_stats = variables.get("batch_stats", {})
    if config.ridge:
        shape = input_shapes(config, batch=1)["trajectories"]
        assert shape is not None
        batch_stats = batch_stats | {RIDGE: {"kernel": jnp.zeros(math.prod(shape[2:])), "bias": jnp.zeros(())}}
    return {"params": variables["params"], "batch_stats": batch_stats}
