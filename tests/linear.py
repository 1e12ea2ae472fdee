"""A linear stand-in for the network, which compiles at once, for tests about everything around the model."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from matplotlib.figure import Figure

from tramp_jax import evaluation, experiment, models, training_log, training_step

# Options of a training that reads only landmarks; "." becomes "__" in keywords.
OPTIONS = {"model.streams": "trajectory", "model.trajectory.channels": "xy", "model.trajectory.input_scale": (0.03,)}


class Linear(nn.Module):
    """A score or logits from trajectories (B, ...), called as a model of the package, or as several side by side."""

    num_classes: int = 0
    members: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, frames, trajectories, index_t, train=False, frame_index=None, frame_features=None):
        x = trajectories.reshape(len(trajectories), -1)
        y = nn.Dense(self.num_classes or self.members)(nn.Dropout(self.dropout, deterministic=not train)(x))
        return (y if self.num_classes or (train and self.members > 1) else y.mean(axis=1)), {}


class LinearInAll(nn.Module):
    """A score that every value of every input moves."""

    @nn.compact
    def __call__(self, frames, trajectories, index_t, train=False, frame_index=None, frame_features=None):
        if frame_index is not None:
            frames = jax.vmap(lambda distinct, where: distinct[where])(frames, frame_index)
        given = [x.reshape(len(x), -1) for x in (frames, trajectories, index_t) if x is not None]
        return nn.Dense(1)(jnp.concatenate(given, axis=1) / 1000)[:, 0], {}


@contextlib.contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """A training inside of this stops when it reports ``step``."""

    def stop():
        raise KeyboardInterrupt

    with calls_at(step, stop), pytest.raises(KeyboardInterrupt):
        yield


@contextlib.contextmanager
def terminated_at(step: int) -> Iterator[None]:
    """A training inside of this gets SIGTERM when it reports ``step``."""
    with calls_at(step, lambda: signal.raise_signal(signal.SIGTERM)):
        yield


@contextlib.contextmanager
def calls_at(step: int, call: Callable[[], None]) -> Iterator[None]:
    """A training inside of this makes the call when it reports the loss of ``step``."""
    write = training_log.Reporter.write

    def calling(self, at, kind, values):
        if at == step and kind == "train":
            call()
        write(self, at, kind, values)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training_log.Reporter, "write", calling)
        yield


def measured(folder, *kinds: str):
    """What a run reported of these kinds, such as "train" and "validation"."""
    return [row for row in training_log.read_metrics(folder) if row["kind"] in kinds]


def _with_dropout(config):
    return Linear(config.head.num_classes, config.members, 0.5)


@contextlib.contextmanager
def linear_model(build: Callable[..., nn.Module] = _with_dropout) -> Iterator[None]:
    """Training and evaluation use what ``build`` makes of a ``model`` group: by default ``Linear``, without frames.

    Their plots are empty files, because to draw those of a run takes longer than the run.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", lambda figure, file, **options: None)
        for place in (models, training_step, evaluation, experiment):
            patched.setattr(place, "build_model", build)
        try:
            _forget()
            yield
        finally:
            _forget()


def _forget() -> None:
    """Clears what is remembered by configuration, which does not tell the two models apart."""
    models._abstract_variables.cache_clear()
    evaluation._predictor.cache_clear()
