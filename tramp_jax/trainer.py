"""The training loop: steps, checkpoints, validation, interruption. The step itself is in ``training_step``."""

import functools
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
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

from tramp_jax import evaluation, metrics, ridge, run, sharding, training_log
from tramp_jax.batches.cache import RunClips, build_run_clips
from tramp_jax.batches.pipeline import Batch, ClipNumbers
from tramp_jax.checkpoint import Checkpoints, can_resume
from tramp_jax.data.datasets import TRAIN, VALIDATION
from tramp_jax.data.source import Split
from tramp_jax.errors import Interrupted, UserError
from tramp_jax.files import write_atomically
from tramp_jax.initial_weights import frozen_paths, initial_variables
from tramp_jax.losses import build_loss
from tramp_jax.optimizer import build_optimizer, learning_rate, steps_in_epoch
from tramp_jax.output import Output
from tramp_jax.progress import Progress
from tramp_jax.training_step import Metrics, TrainState, build_train_step, init_state

AnyBatch = Batch | ClipNumbers


def fit(
    config: ConfigDict,
    splits: dict[str, Split],
    workdir: pathlib.Path,
    resume: bool = False,
    output: Output | None = None,
) -> None:
    """Trains, and writes checkpoints, metrics and plots into ``workdir``.

    Every ``train.evaluate_every`` epochs, it scores the validation subjects and saves the state.

    Args:
      config: the whole configuration.
      resume: whether to continue from the last checkpoint with the same random choices and batches, as if the run had
        never stopped. Without a checkpoint, training starts again.
      output: turns the raw values of the validation subjects into scores; None to monitor raw values.

    Raises:
      UserError: not_finite if the loss, the gradient or the parameters are not finite; no_room if ``train.cache`` does
        not fit into memory; bad_option if options contradict each other or the data.
      Interrupted: after SIGINT or SIGTERM; the state was saved.
    """
    resume = resume and can_resume(workdir)
    mesh = sharding.data_mesh()
    clips = build_run_clips(config, splits[TRAIN], splits[VALIDATION], mesh)
    steps_per_epoch = steps_in_epoch(config.train, len(splits[TRAIN]))
    if resume:  # only their shapes count, because the checkpoint replaces them
        variables, _ = initial_variables(config, given=False)
    else:
        variables = _first_variables(config, splits[TRAIN], workdir, mesh)
    frozen = frozen_paths(variables, config.freeze)
    rate = learning_rate(config.optimizer, steps_per_epoch, config.train.epochs)
    optimizer = build_optimizer(config.optimizer, rate, frozen["params"])
    loss = build_loss(config, [info.score for info in splits[TRAIN].infos])
    train_step = build_train_step(config, loss, optimizer, mesh, frozen, rate)
    state = init_state(variables, optimizer, mesh, config.train.ema)

    with Checkpoints(workdir, config.train.keep_last, writing=True) as checkpoints:
        best: dict[str, Any] = {"best": None, "best_step": None}
        if resume:
            step, *parts, best = checkpoints.restore_last(state.scoring, state.training, mesh)
            state = state.restored(jax.device_put(jnp.int32(step), sharding.replicated(mesh)), *parts)
        first, total = int(state.step), config.train.epochs * steps_per_epoch
        if resume and sharding.is_first_process():
            tqdm.write(f"continues after step {first} of {total}")
        with (
            training_log.Reporter(workdir, first if resume else None) as reporter,
            _StopSignal() as stop,
            _Prefetched(_host_batches(clips, config, first), functools.partial(sharding.put, mesh=mesh)) as batches,
            Progress(total, "step", first, quiet=not sharding.is_first_process()) as progress,
        ):
            kept, predictor = _Kept(checkpoints, reporter, best), evaluation.build_predictor(config, mesh)
            begun = started = time.perf_counter()
            batch = batches.next() if first < total else None
            for step in range(first + 1, total + 1):
                assert batch is not None
                state, measured = train_step(state, batch, clips.store)
                try:
                    batch = batches.next(measured) if step < total else None  # sent while the step runs
                except Exception:  # a clip cannot be read: keep the steps that were trained
                    if jax.process_count() == 1:  # saving needs all processes, and others may have had no error
                        kept.add(step, measured)
                        kept.save(step, state)
                    raise
                kept.add(step, measured)
                pace = (step - first) * config.train.batch_size / (time.perf_counter() - begun)
                known = f"loss {kept.losses[-1]:.4f}, " if kept.losses else ""
                epoch = f"epoch {1 + (step - 1) // steps_per_epoch}/{config.train.epochs:g}"
                progress.update(note=f"{epoch}, {known}{pace:.2g} clips/s")
                stopping = sharding.any_process(bool(stop.name)) and step < total
                if step % (config.train.evaluate_every * steps_per_epoch) == 0 or step == total:
                    kept.settle()
                    seconds = time.perf_counter() - started
                    waited, pace = batches.waited() / seconds, len(kept.losses) * config.train.batch_size / seconds
                    reporter.write(step, "input", {"waited": waited, "clips_per_second": pace})
                    predictions = evaluation.predict(predictor, state.scoring, clips.validation, config, mesh, output)
                    line = kept.evaluated(step, state, predictions, evaluation.selection_metric(config))
                    if sharding.is_first_process():
                        line = f"epoch {step / steps_per_epoch:g}/{config.train.epochs:g}  {line}"
                        tqdm.write(f"{line}  {pace:.1f} clips/s, input {waited:.0%}")
                    started = time.perf_counter()
                if stopping:
                    kept.save(step, state)
                    raise stop.interrupted(step, total)
            if sharding.any_process(bool(stop.name)):  # during the last step or its evaluation, which saved the state
                raise stop.interrupted(total, total)
        if best["best_step"] is None:  # the selection metric was never defined, so the last state is also the best
            checkpoints.save_best(int(state.step), state.scoring)
    if sharding.is_first_process():
        training_log.plot_curves(workdir, evaluation.selection_metric(config), steps_per_epoch)


def _host_batches(clips: RunClips, config: ConfigDict, first: int) -> Iterator[AnyBatch]:
    """Host batches from number ``first`` on.

    The first is read by itself. Reading ahead begins after the first step is compiled, because it would take the
    processor from tracing and compiling.
    """
    alone = config.copy_and_resolve_references()
    alone.train.reader_threads = 0
    yield next(iter(clips.batches(alone, first)))
    yield from clips.batches(config, first + 1)


def _first_variables(config: ConfigDict, train: Split, workdir: pathlib.Path, mesh: Mesh) -> dict[str, Any]:
    """The variables of a new run. Prints what was loaded and frozen, and writes it to initialisation.txt."""
    variables, table = initial_variables(config)
    if config.model.ridge:
        variables = ridge.fitted(variables, train, config, mesh)
    if frozen := frozen_paths(variables, config.freeze)["params"]:
        flat = traverse_util.flatten_dict(variables["params"])
        fixed, every = sum(np.size(flat[path]) for path in frozen), sum(map(np.size, flat.values()))
        table += f"\nfrozen: {len(frozen)} of {len(flat)} arrays, {fixed:,} of {every:,} parameters"
    if table and sharding.is_first_process():
        write_atomically(workdir / run.INITIALISATION, table.strip() + "\n")
        tqdm.write(table.strip())
    return variables


class _Kept:
    """What a run keeps: the outcome of each step in its log, and its last and best state.

    The outcome of a step is kept when the next one runs, so that the devices do not wait for the host.

    Attributes:
      losses: those of the steps since the last evaluation.
    """

    def __init__(self, checkpoints: Checkpoints, reporter: training_log.Reporter, best: dict[str, Any]):
        """``best`` holds "best", the best value of the selection metric, and its "best_step"; both are updated."""
        self._checkpoints, self._reporter, self._best = checkpoints, reporter, best
        self.losses: list[float] = []
        self._running: tuple[int, Metrics] | None = None  # the latest step and its outcome

    def add(self, step: int, measured: Metrics) -> None:
        """Takes the outcome of a step that may still be running, and keeps that of the step before."""
        self.settle()
        self._running = step, measured

    def settle(self) -> None:
        """Waits for the latest step and keeps its outcome.

        Raises:
          UserError: not_finite; this step's state must not be saved.
        """
        if self._running is None:
            return
        (step, measured), self._running = self._running, None
        values = {name: float(value) for name, value in measured.items()}
        self._reporter.write(step, "train", values)
        self.losses.append(values["loss"])
        if broken := [name for name, value in values.items() if not np.isfinite(value)]:
            name, last = "loss" if "loss" in broken else broken[0], self._checkpoints.last_step()
            saved = f"the last checkpoint, of step {last}, is intact" if last else "there is no checkpoint yet"
            raise UserError(
                "not_finite",
                f"the {name.replace('_', ' ')} is {values[name]} at step {step}; {saved}. Lower "
                "--config.optimizer.learning_rate or set --config.optimizer.clip_norm=1, and check the data for scores "
                "and landmarks that are NaN",
            )

    def save(self, step: int, state: TrainState) -> None:
        """Saves everything needed to continue from ``step``."""
        self.settle()
        self._checkpoints.save_last(step, state.scoring, state.training, self._best)

    def evaluated(self, step: int, state: TrainState, predictions: evaluation.Predictions, metric: str) -> str:
        """Keeps the scores of the validation subjects and the state, also as the best one if it is. Returns a summary.

        ``metric`` selects the best state.
        """
        summary = evaluation.summary(predictions)
        self._reporter.write(step, "validation", summary)
        value, marked = summary[metric], ""
        if metrics.is_better(metric, value, self._best["best"]):
            self._best.update(best=value, best_step=step)
            self._checkpoints.save_best(step, state.scoring)
            marked = " (best so far)"
        self.save(step, state)
        if predictions.landmark_error is not None and metric != metrics.LANDMARK_ERROR:
            marked += f"  {metrics.LANDMARK_ERROR} {predictions.landmark_error:.2f} px"
        loss = np.mean(self.losses)
        self.losses.clear()
        return f"loss {loss:.4f}  validation {metric} {value:.4f}{marked}"


class _StopSignal:
    """Turns SIGINT and SIGTERM into a flag, so that the current step ends and the state is saved.

    ``name`` is the name of the signal, "" until one arrives.
    """

    def __enter__(self) -> "_StopSignal":
        self.name = ""
        self._previous = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def interrupted(self, step: int, total: int) -> Interrupted:
        by = self.name or "another process"
        return Interrupted(f"stopped by {by} after step {step} of {total}; the state is saved")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._previous[signal.Signals(number)])  # a second signal takes effect at once


class _Prefetched:
    """Batches on their way to the devices. Each is read and sent while the previous step runs."""

    def __init__(self, batches: Any, put: Callable[[AnyBatch], AnyBatch]):
        """
        Args:
          batches: an iterator over host batches; closed at the end to stop its readers.
          put: starts sending a host batch to the devices, and returns it as a batch on the devices.
        """
        self._batches, self._put = batches, put
        # One thread waits for steps and the other for transfers. Each kind ends in the order in which it began.
        self._steps, self._transfers = futures.ThreadPoolExecutor(1), futures.ThreadPoolExecutor(1)
        self._open: list[tuple[float, futures.Future[float], futures.Future[float]]] = []

    def __enter__(self) -> "_Prefetched":
        return self

    def __exit__(self, *_: object) -> None:
        self._batches.close()
        self._steps.shutdown()
        self._transfers.shutdown()

    def next(self, running: Metrics | None = None) -> AnyBatch:
        """Starts sending the next batch and returns it. ``running`` is the outcome of the previous step."""
        asked = time.perf_counter()
        ended = self._steps.submit(_time_of, running)
        batch = self._put(next(self._batches))
        self._open.append((asked, ended, self._transfers.submit(_time_of, batch)))
        return batch

    def waited(self) -> float:
        """How many seconds the devices have waited for batches since the last call.

        For each batch, they wait from the end of the previous step, or from the call of ``next`` if that was later,
        until the batch arrives. Reading and sending during a step delays nothing and does not count.
        """
        total = 0.0
        for asked, ended, arrived in self._open:
            total += max(0.0, arrived.result() - max(asked, ended.result()))
        self._open.clear()
        return total


def _time_of(outcome: Any) -> float:
    """Waits until the arrays of ``outcome`` are computed, and returns the time."""
    jax.block_until_ready(outcome)
    return time.perf_counter()
