"""The training loop: epochs, checkpoints, validation, interruption. The step itself is in ``training_step``."""

import pathlib
import signal
import time
from collections.abc import Callable, Collection
from concurrent import futures
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from tramp_jax import evaluation, run, sharding, training_log
from tramp_jax.batches.cache import build_feed
from tramp_jax.batches.device_cache import Store
from tramp_jax.batches.pipeline import Batch, ClipNumbers
from tramp_jax.checkpoint import Checkpoints
from tramp_jax.data.clips import Split
from tramp_jax.data.datasets import TRAIN, VALIDATION
from tramp_jax.errors import Interrupted, UserError
from tramp_jax.files import write_atomically
from tramp_jax.initial_weights import Path, frozen_paths, initial_variables
from tramp_jax.optimizer import build_optimizer, learning_rate
from tramp_jax.training_step import Metrics, TrainState, TrainStep, build_train_step, init_state

AnyBatch = Batch | ClipNumbers


def fit(config: ConfigDict, splits: dict[str, Split], workdir: pathlib.Path, resume: bool = False) -> None:
    """Trains and leaves checkpoints, metrics and plots in ``workdir``.

    After every ``train.evaluate_every`` epochs the validation subjects are scored and the state is saved; ``resume``
    continues from there, with the same draws and batches as if it had never stopped.

    Raises:
      UserError: not_finite, if the loss or the parameters are not finite numbers.
      Interrupted: SIGINT or SIGTERM came; the state was saved.
      UserError: options that contradict each other or the data, or a ``train.cache`` for which there is no room.
    """
    mesh = sharding.data_mesh()
    feed = build_feed(config, splits[TRAIN], splits[VALIDATION], mesh)
    steps_per_epoch = max(1, len(splits[TRAIN]) * config.train.passes_per_epoch // config.train.batch_size)
    variables, origin = initial_variables(config, given=not resume)
    frozen = frozen_paths(variables, config.freeze)
    optimizer = build_optimizer(config.optimizer, steps_per_epoch, frozen["params"])
    rate = learning_rate(config.optimizer, steps_per_epoch)
    train_step = build_train_step(config, optimizer, mesh, frozen["batch_stats"], rate)
    state = init_state(variables, optimizer, mesh)
    _tell_origin(origin, variables, frozen["params"], workdir, resume)

    with Checkpoints(workdir, config.train.keep_last, writing=True) as checkpoints:
        record: dict[str, Any] = {"best": None, "best_step": None}
        resume = resume and checkpoints.last_step() is not None  # else it was stopped before there was anything to lose
        if resume:
            step, *restored, record = checkpoints.restore_last(state.variables, state.opt_state, mesh)
            state = TrainState(jax.device_put(jnp.int32(step), sharding.replicated(mesh)), *restored)
        batches = iter(feed.batches(config, first=int(state.step)))
        with training_log.Reporter(workdir, int(state.step) if resume else None) as reporter, _StopSignal() as stop:
            loop = _Loop(config, mesh, train_step, feed.store, steps_per_epoch, checkpoints, reporter, record)
            with _Input(batches, feed.put) as source:
                state = loop.run(state, source, feed.validation, stop)
        if record["best_step"] is None:  # validation never ranked anything: the last is all there is to choose
            checkpoints.save_best(int(state.step), state.variables)
    if sharding.is_first_process():
        training_log.plot_curves(workdir, evaluation.selection_metric(config), steps_per_epoch)


def _tell_origin(table: str, variables: Any, frozen: Collection[Path], workdir: pathlib.Path, resume: bool) -> None:
    """Shows once what was loaded and frozen, and keeps it in ``workdir``/initialisation.txt."""
    if frozen:
        flat = traverse_util.flatten_dict(variables["params"])
        sizes = [int(np.size(flat[path])) for path in frozen], [int(np.size(x)) for x in flat.values()]
        table += f"\nfrozen: {len(frozen)} of {len(flat)} arrays, {sum(sizes[0]):,} of {sum(sizes[1]):,} parameters"
    if table and not resume and sharding.is_first_process():
        write_atomically(workdir / run.INITIALISATION, table.strip() + "\n")
        tqdm.write(table.strip())


class _StopSignal:
    """Turns SIGINT and SIGTERM into a flag, so that the running step ends and the state is saved."""

    def __enter__(self) -> "_StopSignal":
        self.name = ""
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._previous[signal.Signals(number)])  # a second one takes effect at once


class _Input:
    """Batches on their way to the devices, each asked for while the step before it runs."""

    def __init__(self, batches: Any, put: Callable[[AnyBatch], AnyBatch]):
        """
        Args:
          batches: an iterator over host batches; closed in the end, so that its readers stop.
          put: a host batch -> the batch on the devices, before it has arrived there.
        """
        self._batches, self._put = batches, put
        # One watches the steps, the other the transfers; each sees them end in their order.
        self._steps, self._transfers = futures.ThreadPoolExecutor(1), futures.ThreadPoolExecutor(1)
        self._open: list[tuple[float, futures.Future[float], futures.Future[float]]] = []

    def __enter__(self) -> "_Input":
        return self

    def __exit__(self, *_: object) -> None:
        self._batches.close()
        self._steps.shutdown()
        self._transfers.shutdown()

    def next(self, running: Metrics | None = None) -> AnyBatch:
        """The next batch; its transfer has begun. ``running`` is what the step before it is about to return."""
        asked = time.perf_counter()
        ended = self._steps.submit(_time_of, running)
        batch = self._put(next(self._batches))
        self._open.append((asked, ended, self._transfers.submit(_time_of, batch)))
        return batch

    def waited(self) -> float:
        """Seconds, since this was asked last, for which the devices had nothing to do because a batch was not there.

        That is from the end of the step before, or from when the batch was asked for if that was later, until it has
        arrived. What passes while a step still runs delays nothing, and is not counted.
        """
        total = 0.0
        for asked, ended, arrived in self._open:
            total += max(0.0, arrived.result() - max(asked, ended.result()))
        self._open.clear()
        return total


def _time_of(outcome: Any) -> float:
    """When the arrays of ``outcome`` were computed; waits for it."""
    jax.block_until_ready(outcome)
    return time.perf_counter()


class _Loop:
    """The epochs of ``fit``, with what they share."""

    def __init__(
        self,
        config: ConfigDict,
        mesh: Mesh,
        train_step: TrainStep,
        store: Store | None,
        steps_per_epoch: int,
        checkpoints: Checkpoints,
        reporter: training_log.Reporter,
        record: dict[str, Any],
    ):
        self.config, self.mesh, self.steps_per_epoch = config, mesh, steps_per_epoch
        self.train_step, self.store = train_step, store
        self.checkpoints, self.reporter, self.record = checkpoints, reporter, record
        self.predictor = evaluation.build_predictor(config, mesh)
        self.selection = evaluation.selection_metric(config)

    def run(self, state: TrainState, source: _Input, validation: Split, stop: _StopSignal) -> TrainState:
        """Trains to the last step, evaluating and saving on the way."""
        first, total = int(state.step), self.config.train.epochs * self.steps_per_epoch
        every = self.config.train.evaluate_every * self.steps_per_epoch
        losses: list[float] = []
        unchecked: tuple[int, Metrics] | None = None
        quiet = None if sharding.is_first_process() else True  # None: where there is no terminal
        bar = tqdm(total=total, initial=first, unit="step", dynamic_ncols=True, disable=quiet)
        started = time.perf_counter()
        with bar:
            batch = source.next() if first < total else None
            for step in range(first + 1, total + 1):
                assert batch is not None
                state, measured = self.train_step(state, batch, self.store)
                try:
                    batch = source.next(measured) if step < total else None  # is transferred while the step runs
                except Exception:  # a clip that cannot be read costs none of the steps before it
                    if jax.process_count() == 1:  # else the other processes are not there to save with
                        for outcome in filter(None, (unchecked, (step, measured))):
                            self._check(*outcome)
                        self._save(step, state)
                    raise
                # Read a step's outcome only when the next one is on its way, so that the device never waits for us.
                due, unchecked = unchecked, (step, measured)
                if due is not None:
                    losses.append(self._check(*due))
                    bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
                stopping = sharding.any_process(bool(stop.name)) and step < total
                if step % every == 0 or step == total or stopping:
                    losses.append(self._check(*unchecked))
                    unchecked = None
                bar.update()
                if step % every == 0 or step == total:
                    waited = source.waited() / (time.perf_counter() - started)
                    self.reporter.write(step, "input", {"waited": waited})
                    summary = self._evaluate(step, state, validation)
                    self._save(step, state)
                    pace = len(losses) / (time.perf_counter() - started)
                    if sharding.is_first_process():
                        bar.write(f"{self._line(step, total, losses, summary, pace)}, input {waited:.0%}")
                    losses, started = [], time.perf_counter()
                if stopping:
                    self._save(step, state)
                    by = stop.name or "another process"
                    raise Interrupted(f"stopped by {by} after step {step} of {total}; the state is saved")
        return state

    def _check(self, step: int, measured: Metrics) -> float:
        """Records a step's measurements and returns its loss, which must be finite."""
        values = {name: float(value) for name, value in measured.items()}
        self.reporter.write(step, "train", values)
        broken = [name for name, value in values.items() if not np.isfinite(value)]
        if broken:  # before anything is saved: the parameters of this step may be lost already
            last, name = self.checkpoints.last_step(), "loss" if "loss" in broken else broken[0].replace("_", " ")
            raise UserError(
                "not_finite",
                f"the {name} is {values[broken[0]]} at step {step} (epoch {1 + (step - 1) // self.steps_per_epoch}); "
                + (f"the last checkpoint, of step {last}, is intact. " if last else "there is no checkpoint yet. ")
                + "Lower --config.optimizer.learning_rate or set --config.optimizer.clip_norm=1, and check the "
                "scores and landmarks of the data for values that are not numbers",
            )
        return values["loss"]

    def _evaluate(self, step: int, state: TrainState, validation: Split) -> dict[str, float]:
        """Scores the validation subjects and keeps the state if none before was better."""
        predictions = evaluation.predict(self.predictor, state.variables, validation, self.config, self.mesh)
        summary = evaluation.summary(predictions)
        self.reporter.write(step, "validation", summary)
        value = summary[self.selection]
        if np.isfinite(value) and (self.record["best"] is None or value > self.record["best"]):
            self.record.update(best=value, best_step=step)
            self.checkpoints.save_best(step, state.variables)
        return summary

    def _save(self, step: int, state: TrainState) -> None:
        self.checkpoints.save_last(step, state.variables, state.opt_state, self.record)

    def _line(self, step: int, total: int, losses: list[float], summary: dict[str, float], rate: float) -> str:
        epoch, epochs = step / self.steps_per_epoch, total / self.steps_per_epoch
        chosen = " (best so far)" if self.record["best_step"] == step else ""
        return (
            f"epoch {epoch:g}/{epochs:g}  loss {np.mean(losses):.4f}  validation {self.selection} "
            f"{summary[self.selection]:.4f}{chosen}  {rate * self.config.train.batch_size:.1f} clips/s"
        )
