"""The ways that are compared: a training step, or a forward pass, of the same weights and batch in JAX and PyTorch.

Both sides use published dropout, the same loss and the same optimiser, and normalise uint8 frames on the device. Crops
and flips are left out. The PyTorch side is ``convert_weights/torch_twin.py``.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import timing
from tramp_jax import losses, models, optimizer, sharding, training_step
from tramp_jax.batches import augment, view
from tramp_jax.batches.pipeline import Batch
from tramp_jax.models import Inputs

try:
    import torch
except ModuleNotFoundError:
    torch = None  # type: ignore[assignment]

Scores = Callable[[], np.ndarray]
LEARNING_RATE = 1e-6  # the targets are random, so nothing should be learned


def comparable(config: ConfigDict) -> ConfigDict:
    """``config`` without what only our side would do, and with a step too small to change anything."""
    config = ConfigDict(config.to_dict())
    config.augment.update(crop=False, flip=0.0, reverse_time=0.0)
    config.model.trajectory.update(channels="xyrgb", patch=1, input_scale=(1.0,))
    config.optimizer.update(name="sgd", momentum=0.9, weight_decay=0.0, learning_rate=LEARNING_RATE)
    config.optimizer.update(clip_norm=0.0, warmup_epochs=0.0)
    config.train.accumulate = 1
    return config


def random_batch(config: ConfigDict, size: int) -> Batch:
    """A random batch as the input pipeline makes it, with frames of the model's own size."""
    rng = np.random.default_rng(0)
    shapes = models.input_shapes(config.model, size)
    target = rng.uniform(0, 4, size).astype(np.float32)
    inputs = Inputs()
    if shapes["frames"] is not None:
        inputs = inputs.replace(frames=rng.integers(0, 256, shapes["frames"], np.uint8))
    if shapes["trajectories"] is not None:
        length = config.model.trajectory.length
        inputs = inputs.replace(
            trajectories=rng.normal(size=shapes["trajectories"]).astype(np.float32),
            index_t=np.tile(view.index_t(np.arange(length), length), (size, 1)),
        )
    return Batch(inputs, target)


def named(batch: Batch) -> dict[str, np.ndarray]:
    """The arrays of a batch by name."""
    arrays = dataclasses.asdict(batch.inputs) | {"target": batch.target}
    return {name: x for name, x in arrays.items() if x is not None}


@dataclasses.dataclass(frozen=True)
class Work:
    """A model and a batch, the same for all ways. ``twin`` has the weights of ``variables``, or is None."""

    config: ConfigDict
    batch: Batch
    variables: Any
    twin: Any


def prepare(config: ConfigDict, size: int, twin: bool = torch is not None) -> Work:
    """The model of ``config`` with random weights, if wanted also as a PyTorch twin, and a random batch."""
    config = comparable(config)
    batch = random_batch(config, size)
    if not twin:
        return Work(config, batch, models.init_variables(config.model, jax.random.key(0)), None)
    from convert_weights.convert import to_variables
    from convert_weights.torch_twin import build_twin

    torch.manual_seed(0)
    model = build_twin(config.model)
    variables = to_variables({name: x.numpy().copy() for name, x in model.state_dict().items()}, config.model)
    return Work(config, batch, variables, model.to(_torch_device()))


@dataclasses.dataclass(frozen=True)
class JaxWay:
    """This project. Products are computed in ``precision``; with ``highest``, in all digits of float32."""

    precision: str = "float32"
    highest: bool = False

    def context(self) -> Any:
        """The context in which a program of this way is traced and called."""
        return jax.default_matmul_precision("highest") if self.highest else contextlib.nullcontext()

    def configured(self, config: ConfigDict) -> ConfigDict:
        """``config`` with this precision."""
        config = ConfigDict(config.to_dict())
        config.model.precision = self.precision
        return config

    def step(self, work: Work, mesh: Any = None) -> timing.Way:
        """The trainer's own step, repeated on one batch."""
        mesh = mesh or sharding.data_mesh()
        sgd = optimizer.build_optimizer(work.config.optimizer, lambda step: work.config.optimizer.learning_rate)
        config = self.configured(work.config)
        step = training_step.build_train_step(config, losses.build_loss(config), sgd, mesh)
        state = training_step.init_state(jax.tree.map(np.asarray, work.variables), sgd, mesh)
        batch = jax.device_put(work.batch, sharding.split_batch(mesh))

        def way() -> float:
            nonlocal state
            with self.context():
                state, measured = step(state, batch, None)
            return float(measured["loss"])

        return way

    def forward(self, work: Work) -> Scores:
        """The scores of the batch, without dropout."""
        model = models.build_model(self.configured(work.config).model)
        variables, inputs = jax.device_put((work.variables, work.batch.inputs))

        @jax.jit
        def forward(variables: Any, inputs: Inputs) -> jax.Array:
            return models.apply(model, variables, augment.for_evaluation(inputs, work.config.model))[0]

        def way() -> np.ndarray:
            with self.context():
                return np.asarray(forward(variables, inputs))

        return way


@dataclasses.dataclass(frozen=True)
class TorchWay:
    """The twin in eager float32 as released, or with PyTorch's ways to be faster.

    Attributes:
      tuned: cuDNN picks its fastest algorithm, and float32 products may use TF32; otherwise PyTorch's defaults.
      channels_last, compiled, bfloat16: memory format, ``torch.compile``, autocast.
    """

    tuned: bool = False
    channels_last: bool = False
    compiled: bool = False
    bfloat16: bool = False

    def step(self, work: Work) -> timing.Way:
        """A training step, repeated on one batch."""
        model, scores, batch = self._scores_of(work)
        model.train()
        sgd = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
        loss_of = _torch_loss(work.config)

        def way() -> float:
            sgd.zero_grad()
            loss = loss_of(scores(), batch["target"])
            loss.backward()
            sgd.step()
            return loss.item()

        return way

    def forward(self, work: Work) -> Scores:
        """The scores of the batch, without dropout."""
        model, scores, _ = self._scores_of(work)
        model.eval()

        def way() -> np.ndarray:
            with torch.inference_mode():
                return scores().cpu().numpy()

        return way

    def _scores_of(self, work: Work) -> tuple[Any, Callable[[], Any], dict[str, Any]]:
        """(a copy of the twin, a function that computes its scores of the batch, the batch in PyTorch's order)."""
        device = _torch_device()
        order = {"frames": (0, 1, 4, 2, 3), "trajectories": (0, 2, 1, 3)}
        batch = {
            name: torch.from_numpy(np.ascontiguousarray(x.transpose(order.get(name, range(x.ndim))))).to(device)
            for name, x in named(work.batch).items()
        }
        mean, std = (
            torch.tensor(x, device=device)[:, None, None] for x in (augment.IMAGENET_MEAN, augment.IMAGENET_STD)
        )
        model = copy.deepcopy(work.twin)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        called = torch.compile(model) if self.compiled else model

        def scores() -> Any:
            # These hold for the whole process, so every call sets them again.
            torch.backends.cudnn.benchmark = self.tuned
            torch.set_float32_matmul_precision("high" if self.tuned else "highest")
            frames = batch.get("frames")
            if frames is not None:
                frames = (frames.float() / 255 - mean) / std
            with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
                score, _ = called(frames, batch.get("trajectories"), batch.get("index_t"))
            return score.float()

        return model, scores, batch


def _torch_device() -> str:
    """The device that JAX uses."""
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def _torch_loss(config: ConfigDict) -> Callable[[Any, Any], Any]:
    """The loss of ``config`` in PyTorch: balanced MSE or MSE."""
    if config.loss.name == "mse":
        return torch.nn.functional.mse_loss
    if config.loss.name != "bmc":
        raise ValueError(f"loss.name is {config.loss.name!r}; the benchmark has bmc and mse")
    noise = 2 * config.loss.sigma**2

    def bmc(score: Any, target: Any) -> Any:
        logits = -(score[:, None] - target[None, :]).square() / noise
        return noise * torch.nn.functional.cross_entropy(logits, torch.arange(len(score), device=score.device))

    return bmc


EAGER, HIGHEST = "torch-eager", "jax-float32-highest"
JAX_WAYS = {"jax-float32": JaxWay(), "jax-bfloat16": JaxWay("bfloat16"), HIGHEST: JaxWay(highest=True)}
TORCH_WAYS = {
    EAGER: TorchWay(),
    "torch-channels-last": TorchWay(tuned=True, channels_last=True),
    "torch-bfloat16": TorchWay(tuned=True, channels_last=True, bfloat16=True),
    "torch-compile": TorchWay(tuned=True, channels_last=True, compiled=True),
    "torch-compile-bfloat16": TorchWay(tuned=True, channels_last=True, compiled=True, bfloat16=True),
}
WAYS: dict[str, JaxWay | TorchWay] = {**JAX_WAYS, **TORCH_WAYS}
# For the report: what float32 means on each side.
PRECISIONS = (
    "jax-float32: products and convolutions at JAX's default precision, which is TF32 on NVIDIA's GPUs since Ampere.",
    f"{HIGHEST}: all digits of float32 (jax_default_matmul_precision=highest).",
    "jax-bfloat16: products and convolutions in bfloat16; parameters, statistics, softmax and loss in float32.",
    f"{EAGER}: as released, with PyTorch's defaults: products with all digits of float32, convolutions may use TF32.",
    "Other torch ways: channels last, cudnn.benchmark, set_float32_matmul_precision('high'), which allows TF32; "
    "bfloat16 is autocast.",
)
