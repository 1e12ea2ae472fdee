"""One training step: augmentation, loss of the global batch, gradients, update. Pure, and jitted over the mesh."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tramp_jax import models, sharding
from tramp_jax.batches import device_cache
from tramp_jax.batches.augment import for_training
from tramp_jax.batches.device_cache import Store
from tramp_jax.batches.pipeline import Batch, ClipNumbers
from tramp_jax.initial_weights import Path
from tramp_jax.losses import build_loss
from tramp_jax.models import Inputs, Model, build_model

Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes; ``variables`` are ``{"params", "batch_stats"}``."""

    step: jax.Array
    variables: dict[str, Any]
    opt_state: optax.OptState


TrainStep = Callable[[TrainState, Batch | ClipNumbers, Store | None], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The model and its loss: what gradients are taken of."""

    model: Model
    loss: Callable[[jax.Array, jax.Array], jax.Array]


def init_state(variables: dict[str, Any], optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step, replicated over ``mesh``."""
    state = TrainState(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))
    return jax.device_put(state, sharding.replicated(mesh))


def forward(model: Model, params: Any, running: Any, inputs: Inputs, key: jax.Array) -> tuple[jax.Array, Any]:
    """The scores (B,) in training mode, and the new running statistics."""
    variables = {"params": params, "batch_stats": running}
    (score, _), updated = models.apply(
        model, variables, inputs, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    return score, updated.get("batch_stats", {})


def gradients_of_batch(
    objective: Objective, params: Any, running: Any, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Any, Any]:
    """Returns (loss, running statistics, gradients) of a batch that passes through the model at once."""

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        score, updated = forward(objective.model, params, running, batch.inputs, key)
        return objective.loss(score, batch.target), updated

    (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return loss, updated, gradients


def gradients_in_parts(
    objective: Objective, params: Any, running: Any, batch: Batch, key: jax.Array, parts: int
) -> tuple[jax.Array, Any, Any]:
    """``gradients_of_batch`` with the batch cut into parts that pass through the model one after the other.

    The loss is still that of the whole batch: a first pass without gradients finds all scores, a second one takes each
    part back through the model. Batch normalisation sees one part at a time.
    """
    # Part a takes every A-th clip, so that each part stays spread over the devices.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    every_part = (cut.inputs, jax.random.split(key, parts))
    scores = jax.lax.map(lambda part: forward(objective.model, params, running, *part)[0], every_part)

    def loss_of_parts(scores: jax.Array) -> jax.Array:
        return objective.loss(scores.reshape(-1, *scores.shape[2:]), cut.target.reshape(-1))

    loss, score_gradients = jax.value_and_grad(loss_of_parts)(scores)

    def accumulate(carry: tuple[Any, Any], part: Any) -> tuple[tuple[Any, Any], None]:
        gradients, running = carry
        inputs_and_key, score_gradient = part
        (_, updated), backward = jax.vjp(lambda p: forward(objective.model, p, running, *inputs_and_key), params)
        (added,) = backward((score_gradient, jax.tree.map(jnp.zeros_like, updated)))
        return (jax.tree.map(jnp.add, gradients, added), updated), None

    start = jax.tree.map(jnp.zeros_like, params), running
    (gradients, updated), _ = jax.lax.scan(accumulate, start, (every_part, score_gradients))
    return loss, updated, gradients


def build_train_step(
    config: ConfigDict,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    frozen: Collection[Path] = (),
    rate: optax.Schedule = lambda step: 0.0,
) -> TrainStep:
    """Returns the jitted (state, batch, store) -> (state, metrics).

    The batch is split over the devices and the state is replicated, so the loss and the batch statistics are those of
    the global batch. The state is donated. Random draws depend only on (``config.seed``, step).

    Args:
      config: the whole configuration; ``train.accumulate`` is the number of parts of ``gradients_in_parts``.
      optimizer: it also knows which parameters are frozen.
      mesh: the devices.
      frozen: paths of running statistics that stay as they are.
      rate: the learning rate of each step, for the record.
    """
    objective = Objective(build_model(config.model), build_loss(config))
    image_size, parts = config.model.rgb.image_size, config.train.accumulate

    def train_step(state: TrainState, batch: Batch | ClipNumbers, store: Store | None) -> tuple[TrainState, Metrics]:
        if isinstance(batch, ClipNumbers):  # the devices hold the clips
            assert store is not None
            batch = device_cache.sample(store, batch, config)
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        augment_key, dropout_key = jax.random.split(key)
        batch = batch.replace(inputs=for_training(batch.inputs, config.augment, image_size, augment_key))
        params, running = state.variables["params"], state.variables["batch_stats"]
        if parts == 1:
            loss, batch_stats, gradients = gradients_of_batch(objective, params, running, batch, dropout_key)
        else:
            loss, batch_stats, gradients = gradients_in_parts(objective, params, running, batch, dropout_key, parts)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        variables = {
            "params": optax.apply_updates(params, updates),
            "batch_stats": _keep_frozen(running, batch_stats, frozen),
        }
        metrics = {
            "loss": loss,
            "gradient_norm": _norm(gradients),
            "parameter_norm": _norm(variables["params"]),
            "learning_rate": jnp.asarray(rate(state.step), jnp.float32),
        }
        return TrainState(state.step + 1, variables, opt_state), metrics

    everywhere, divided = sharding.replicated(mesh), sharding.split_batch(mesh)
    shardings = everywhere, divided, everywhere
    return jax.jit(train_step, in_shardings=shardings, out_shardings=everywhere, donate_argnums=0)


def _keep_frozen(old: Any, new: Any, frozen: Collection[Path]) -> Any:
    """The new running statistics, with the old ones at the frozen paths."""
    return jax.tree_util.tree_map_with_path(
        lambda path, a, b: a if tuple(key.key for key in path) in frozen else b, old, new
    )


def _norm(tree: Any) -> jax.Array:
    """Norm of all arrays as one vector; one sum for each of hundreds would take longer to compile and to load."""
    return jnp.linalg.norm(jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]))
