"""The training step: augmentation, loss of the global batch, gradients and update. Pure, and jitted over the mesh."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from convert_weights.convert import Path
from tramp_jax import landmark_readout, models, sharding
from tramp_jax.batches import device_cache
from tramp_jax.batches.augment import for_training
from tramp_jax.batches.device_cache import Store
from tramp_jax.batches.pipeline import Batch, ClipNumbers
from tramp_jax.losses import Loss
from tramp_jax.models import Inputs, Model, build_model, initial

Metrics = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """Everything that a step changes."""

    step: jax.Array  # number of steps so far
    variables: dict[str, Any]  # ``{"params", "batch_stats"}``, which training changes
    opt_state: optax.OptState  # the optimiser's state
    # The average of ``variables`` over the steps (see ``averaged``); None without ``train.ema``.
    average: dict[str, Any] | None = None

    @property
    def scoring(self) -> dict[str, Any]:
        """The variables to score with."""
        return self.variables if self.average is None else self.average

    @property
    def training(self) -> Any:
        """What only training needs besides ``scoring``."""
        return self.opt_state if self.average is None else (self.opt_state, self.variables)

    def restored(self, step: jax.Array, scoring: dict[str, Any], training: Any) -> "TrainState":
        """A state of the same kind with these ``scoring`` and ``training`` parts, as from a checkpoint."""
        if self.average is None:
            return TrainState(step, scoring, training)
        opt_state, variables = training
        return TrainState(step, variables, opt_state, scoring)


TrainStep = Callable[[TrainState, Batch | ClipNumbers, Store | None], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """The model and what it minimises on a whole batch."""

    model: Model
    loss: Loss  # the loss of scores and targets
    landmarks: float = 0.0  # the weight of the landmark errors (``loss.landmarks``)

    def __call__(self, score: jax.Array, landmark_errors: jax.Array | None, target: jax.Array) -> jax.Array:
        """The loss of scores (B,) or logits (B, classes), landmark errors (B, F) and targets (B,)."""
        loss = self.loss(score, target)
        return loss if landmark_errors is None else loss + self.landmarks * jnp.nanmean(landmark_errors)


def init_state(
    variables: dict[str, Any], optimizer: optax.GradientTransformation, mesh: Mesh, ema: float = 0.0
) -> TrainState:
    """The state before the first step, replicated over ``mesh``."""
    average = jax.tree.map(jnp.copy, variables) if ema else None  # a copy, because a step donates both
    opt_state = initial.draw(optimizer.init, variables["params"])
    state = TrainState(jnp.zeros((), jnp.int32), variables, opt_state, average)
    return jax.device_put(state, sharding.replicated(mesh))


Outcome = tuple[jax.Array, jax.Array | None]  # scores or logits, and landmark errors


def forward(model: Model, params: Any, running: Any, inputs: Inputs, key: jax.Array) -> tuple[Outcome, Any]:
    """Runs the model on a batch in training mode.

    Returns:
      What the loss needs, and the new running statistics. The loss needs scores (B,) or logits (B, classes), and the
      landmark errors in each frame (B, F), which are None without ``inputs.points``.
    """
    variables = {"params": params, "batch_stats": running}
    (score, out), updated = models.apply(
        model, variables, inputs, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    errors = None
    if inputs.points is not None:
        errors = landmark_readout.squared_errors(params, out["frame_features"], inputs.points)
    return (score, errors), updated.get("batch_stats", {})


def gradients_of_batch(
    objective: Objective, params: Any, running: Any, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Any, Any]:
    """Returns (loss, new running statistics, gradients) of a batch, computed in one pass."""

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        (score, errors), updated = forward(objective.model, params, running, batch.inputs, key)
        return objective(score, errors, batch.target), updated

    (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return loss, updated, gradients


def gradients_in_parts(
    objective: Objective, params: Any, running: Any, batch: Batch, key: jax.Array, parts: int
) -> tuple[jax.Array, Any, Any]:
    """Like ``gradients_of_batch``, but computes one part of the batch at a time, which takes less memory.

    The loss is still the whole batch's: a first pass without gradients computes all outcomes, and a second one
    sends the gradient of the loss back through each part. Only batch normalisation sees one part at a time.
    """
    # Each part takes every ``parts``-th clip, so that it is spread over all devices.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    every_part = (cut.inputs, jax.random.split(key, parts))
    outcomes = jax.lax.map(lambda part: forward(objective.model, params, running, *part)[0], every_part)

    def loss_of_parts(outcomes: Outcome) -> jax.Array:
        score, errors = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outcomes)
        return objective(score, errors, cut.target.reshape(-1))

    loss, outcome_gradients = jax.value_and_grad(loss_of_parts)(outcomes)

    def accumulate(carry: tuple[Any, Any], part: Any) -> tuple[tuple[Any, Any], None]:
        gradients, running = carry
        inputs_and_key, outcome_gradient = part
        (_, updated), backward = jax.vjp(lambda p: forward(objective.model, p, running, *inputs_and_key), params)
        (added,) = backward((outcome_gradient, jax.tree.map(jnp.zeros_like, updated)))
        return (jax.tree.map(jnp.add, gradients, added), updated), None

    start = jax.tree.map(jnp.zeros_like, params), running
    (gradients, updated), _ = jax.lax.scan(accumulate, start, (every_part, outcome_gradients))
    return loss, updated, gradients


def update(
    state: TrainState,
    gradients: Any,
    batch_stats: Any,
    optimizer: optax.GradientTransformation,
    frozen: Collection[Path] = (),
    ema: float = 0.0,
) -> TrainState:
    """The state after a step with these gradients and new running statistics; those at ``frozen`` paths stay."""
    params = state.variables["params"]
    updates, opt_state = optimizer.update(gradients, state.opt_state, params)
    variables = {
        "params": optax.apply_updates(params, updates),
        "batch_stats": jax.tree_util.tree_map_with_path(
            lambda path, old, new: old if tuple(key.key for key in path) in frozen else new,
            state.variables["batch_stats"],
            batch_stats,
        ),
    }
    average = averaged(state.average, variables, state.step + 1, ema) if ema else None
    return TrainState(state.step + 1, variables, opt_state, average)


def averaged(average: Any, variables: Any, step: jax.Array, decay: float) -> Any:
    """The weighted mean of the variables after steps 1 to n = ``step``, where step k has the weight decay^(n − k).

    The initial variables do not count, and frozen ones stay exactly as they are.
    """
    share = (1 - decay) / -jnp.expm1(step * math.log(decay))
    return jax.tree.map(lambda old, new: old + share * (new - old), average, variables)


def build_train_step(
    config: ConfigDict,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    frozen: Mapping[str, Collection[Path]] = MappingProxyType({"params": (), "batch_stats": ()}),
    rate: optax.Schedule = lambda step: 0.0,
) -> TrainStep:
    """Returns a jitted function (state, batch, store) -> (state, metrics).

    The batch is split over the devices and the state is replicated, so the loss and the batch statistics are those of
    the global batch. The state is donated. Random choices depend only on (``config.seed``, step).

    Args:
      config: the whole configuration; ``train.accumulate`` is the number of parts of ``gradients_in_parts``, and
        ``train.ema`` the decay of ``averaged``.
      optimizer: updates the parameters that are not frozen.
      frozen: paths of parameters that the optimiser does not update, and of running statistics that stay fixed; see
        ``initial_weights.frozen_paths``.
      rate: the learning rate of each step, for the metrics.
    """
    objective = Objective(build_model(config.model), loss, config.loss.landmarks)
    parts = config.train.accumulate

    def train_step(state: TrainState, batch: Batch | ClipNumbers, store: Store | None) -> tuple[TrainState, Metrics]:
        if isinstance(batch, ClipNumbers):
            assert store is not None, "ClipNumbers need a store with the clips"
            batch = device_cache.sample(store, batch, config)
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        augment_key, dropout_key = jax.random.split(key)
        batch = batch.replace(inputs=for_training(batch.inputs, config, augment_key))
        start = objective, state.variables["params"], state.variables["batch_stats"], batch, dropout_key
        value, batch_stats, gradients = gradients_of_batch(*start) if parts == 1 else gradients_in_parts(*start, parts)
        new = update(state, gradients, batch_stats, optimizer, frozen["batch_stats"], config.train.ema)
        flat = traverse_util.flatten_dict(gradients)
        metrics = {
            "loss": value,
            # Without those of frozen parameters: nothing else reads them, so XLA does not compute them.
            "gradient_norm": _norm([x for path, x in flat.items() if path not in frozen["params"]]),
            "parameter_norm": _norm(new.variables["params"]),
            "learning_rate": jnp.asarray(rate(state.step), jnp.float32),
        }
        return new, metrics

    everywhere, divided = sharding.replicated(mesh), sharding.split_batch(mesh)
    shardings = everywhere, divided, everywhere
    return jax.jit(train_step, in_shardings=shardings, out_shardings=everywhere, donate_argnums=0)


def _norm(tree: Any) -> jax.Array:
    """Norm of all arrays as one vector, because hundreds of separate sums would take longer to compile and load."""
    return jnp.linalg.norm(jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]))
