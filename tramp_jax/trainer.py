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
from tramp_jax.initial_weights import Path, frozen_paths, initial_variables
from tramp_jax.losses import build_loss
from tramp_jax.optimizer import build_optimizer, learning_rate
from tramp_jax.output import Output
from tramp_jax.progress import Progress
from tramp_jax.training_step import Metrics, TrainState, TrainStep, build_train_step, init_state

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
      splits: training and validation clips.
      workdir: the folder of the run or fold.
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
    steps_per_epoch = max(1, len(splits[TRAIN]) * config.train.passes_per_epoch // config.train.batch_size)
    variables, origin = initial_variables(config, given=not resume)
    if config.model.ridge and not resume:
        variables = ridge.fitted(variables, splits[TRAIN], config, mesh)
    frozen = frozen_paths(variables, config.freeze)
    rate = learning_rate(config.optimizer, steps_per_epoch, config.train.epochs)
    optimizer = build_optimizer(config.optimizer, rate, frozen["params"])
    loss = build_loss(config, [info.score for info in splits[TRAIN].infos])
    train_step = build_train_step(config, loss, optimizer, mesh, frozen, rate)
    state = init_state(variables, optimizer, mesh, config.train.ema)
    if not resume:
        _report_origin(origin, variables, frozen["params"], workdir)

    with Checkpoints(workdir, config.train.keep_last, writing=True) as checkpoints:
        record: dict[str, Any] = {"best": None, "best_step": None}
        if resume:
            step, *parts, record = checkpoints.restore_last(state.scoring, state.training, mesh)
            state = state.restored(jax.device_put(jnp.int32(step), sharding.replicated(mesh)), *parts)
        first = int(state.step)
        batches = iter(clips.batches(config, first))
        with training_log.Reporter(workdir, first if resume else None) as reporter, _StopSignal() as stop:
            loop = _Loop(config, clips, output, steps_per_epoch, checkpoints, reporter, record)
            with _Input(batches, clips.put) as source:
                state = loop.run(train_step, state, source, stop)
        if record["best_step"] is None:  # the selection metric was never defined, so the last state is also the best
            checkpoints.save_best(int(state.step), state.scoring)
    if sharding.is_first_process():
        training_log.plot_curves(workdir, evaluation.selection_metric(config), steps_per_epoch)


def _report_origin(table: str, variables: Any, frozen: Collection[Path], workdir: pathlib.Path) -> None:
    """Prints what was loaded and frozen, and writes it to ``workdir``/initialisation.txt."""
    if frozen:
        flat = traverse_util.flatten_dict(variables["params"])
        fixed, every = sum(np.size(flat[path]) for path in frozen), sum(map(np.size, flat.values()))
        table += f"\nfrozen: {len(frozen)} of {len(flat)} arrays, {fixed:,} of {every:,} parameters"
    if table and sharding.is_first_process():
        write_atomically(workdir / run.INITIALISATION, table.strip() + "\n")
        tqdm.write(table.strip())


class _Loop:
    """The loop of ``fit`` over steps, and what happens between them."""

    def __init__(
        self,
        config: ConfigDict,
        clips: RunClips,
        output: Output | None,
        steps_per_epoch: int,
        checkpoints: Checkpoints,
        reporter: training_log.Reporter,
        record: dict[str, Any],
    ):
        """``record`` holds "best", the best value of the selection metric, and its "best_step"; the loop updates it."""
        self._config, self._clips, self._output, self._steps_per_epoch = config, clips, output, steps_per_epoch
        self._checkpoints, self._reporter, self._record = checkpoints, reporter, record
        self._predictor = evaluation.build_predictor(config, clips.mesh)
        self._losses: list[float] = []  # since the last evaluation
        self._running: tuple[int, Metrics] | None = None  # the latest step and its outcome, not recorded yet

    def run(self, train_step: TrainStep, state: TrainState, source: "_Input", stop: "_StopSignal") -> TrainState:
        """Trains to the last step, evaluating and saving along the way. Returns the last state."""
        first, total = int(state.step), self._config.train.epochs * self._steps_per_epoch
        every = self._config.train.evaluate_every * self._steps_per_epoch
        begun = started = time.perf_counter()
        with Progress(total, "step", first, quiet=not sharding.is_first_process()) as progress:
            batch = source.next() if first < total else None
            for step in range(first + 1, total + 1):
                assert batch is not None
                state, measured = train_step(state, batch, self._clips.store)
                try:
                    batch = source.next(measured) if step < total else None  # sent while the step runs
                except Exception:  # a clip cannot be read: keep the steps that were trained
                    if jax.process_count() == 1:  # saving needs all processes, and others may have had no error
                        self._add(step, measured)
                        self._save(step, state)
                    raise
                self._add(step, measured)
                progress.update(note=self._note(step, (step - first) / (time.perf_counter() - begun)))
                stopping = sharding.any_process(bool(stop.name)) and step < total
                if step % every == 0 or step == total:
                    line = self._evaluate(step, state, source, started)
                    if sharding.is_first_process():
                        tqdm.write(f"epoch {step / self._steps_per_epoch:g}/{self._config.train.epochs:g}  {line}")
                    started = time.perf_counter()
                if stopping:
                    self._save(step, state)
                    raise stop.interrupted(step, total)
        if sharding.any_process(bool(stop.name)):  # during the last step or its evaluation, which saved the state
            raise stop.interrupted(total, total)
        return state

    def _note(self, step: int, pace: float) -> str:
        """What the progress bar shows after a step, at ``pace`` steps/s."""
        loss = f"loss {self._losses[-1]:.4f}, " if self._losses else ""
        epoch = f"epoch {1 + (step - 1) // self._steps_per_epoch}/{self._config.train.epochs:g}"
        return f"{epoch}, {loss}{pace * self._config.train.batch_size:.2g} clips/s"

    def _add(self, step: int, measured: Metrics) -> None:
        """Records the previous step. This one may still be running, and the devices must not wait for its record."""
        self._settle()
        self._running = step, measured

    def _settle(self) -> None:
        """Waits for the latest step and records it. Call it before saving a state.

        Raises:
          UserError: not_finite; this step's state must not be saved.
        """
        if self._running is None:
            return
        (step, measured), self._running = self._running, None
        values = {name: float(value) for name, value in measured.items()}
        self._reporter.write(step, "train", values)
        self._losses.append(values["loss"])
        if broken := [name for name, value in values.items() if not np.isfinite(value)]:
            name, last = "loss" if "loss" in broken else broken[0], self._checkpoints.last_step()
            saved = f"the last checkpoint, of step {last}, is intact" if last else "there is no checkpoint yet"
            raise UserError(
                "not_finite",
                f"the {name.replace('_', ' ')} is {values[name]} at step {step} (epoch "
                f"{1 + (step - 1) // self._steps_per_epoch}); {saved}. Lower --config.optimizer.learning_rate or set "
                "--config.optimizer.clip_norm=1, and check the data for scores and landmarks that are NaN",
            )

    def _evaluate(self, step: int, state: TrainState, source: "_Input", started: float) -> str:
        """Scores the validation subjects, saves the state, also as the best one if it is, and returns a summary.

        ``started`` is the time at which the steps since the last evaluation began.
        """
        self._settle()
        seconds = time.perf_counter() - started
        waited, pace = source.waited() / seconds, len(self._losses) * self._config.train.batch_size / seconds
        self._reporter.write(step, "input", {"waited": waited, "clips_per_second": pace})
        validation, mesh = self._clips.validation, self._clips.mesh
        predictions = evaluation.predict(self._predictor, state.scoring, validation, self._config, mesh, self._output)
        summary, metric = evaluation.summary(predictions), evaluation.selection_metric(self._config)
        self._reporter.write(step, "validation", summary)
        value = summary[metric]
        chosen = metrics.is_better(metric, value, self._record["best"])
        if chosen:
            self._record.update(best=value, best_step=step)
            self._checkpoints.save_best(step, state.scoring)
        self._save(step, state)
        loss = np.mean(self._losses)
        self._losses.clear()
        marked = " (best so far)" if chosen else ""
        if predictions.landmark_error is not None and metric != metrics.LANDMARK_ERROR:
            marked += f"  {metrics.LANDMARK_ERROR} {predictions.landmark_error:.2f} px"
        return f"loss {loss:.4f}  validation {metric} {value:.4f}{marked}  {pace:.1f} clips/s, input {waited:.0%}"

    def _save(self, step: int, state: TrainState) -> None:
        """Saves everything needed to continue from ``step``."""
        self._settle()
        self._checkpoints.save_last(step, state.scoring, state.training, self._record)


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


class _Input:
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

    def __enter__(self) -> "_Input":
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
