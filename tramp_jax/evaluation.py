"""Scores a split with a checkpoint, and writes the reports."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from tramp_jax import agreement, json_files, landmark_readout, metrics, models, run, sharding, training_log
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.batches.pipeline import evaluation_batches
from tramp_jax.data import tables
from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.problems import Problems
from tramp_jax.data.source import Split
from tramp_jax.errors import UserError
from tramp_jax.files import write_atomically
from tramp_jax.losses import LANDMARKS
from tramp_jax.models import Inputs, build_model
from tramp_jax.output import Output
from tramp_jax.progress import Progress

Predictor = Callable[[Any, Inputs], tuple[jax.Array, jax.Array | None]]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The model's output for the N clips of a split."""

    infos: Sequence[ClipInfo]
    raw: np.ndarray  # (N,) raw values, or (N, classes) logits
    # Turns raw values into scores; None for a classifier or to leave raw values as they are.
    output: Output | None = None
    rated: bool = True  # False if the model was trained only on landmarks; ``raw`` then means nothing
    # Mean distance between the landmarks that the frame encoder finds and the true ones, in pixels of the model's
    # frames; None unless ``loss.landmarks`` is on.
    landmark_error: float | None = None

    @functools.cached_property
    def score(self) -> np.ndarray:
        """(N,) scores on the rating scale; ``raw`` without ``output``."""
        return self.raw if self.output is None else self.output.score(self.raw.astype(np.float64))

    @property
    def target(self) -> np.ndarray:
        return np.array([info.score for info in self.infos])

    @property
    def subjects(self) -> list[str]:
        return [info.subject for info in self.infos]


def build_predictor(config: ConfigDict, mesh: Mesh) -> Predictor:
    """Returns a jitted function (variables, inputs) -> (raw values, landmark distances).

    The batch is split over the devices. Landmark distances (B, F) are in pixels, NaN for padding; None if the inputs
    have no ``points``. The last predictor is cached, because a run evaluates the same model several times.
    """
    return _predictor(FrozenConfigDict(config.model), mesh)


@functools.lru_cache(maxsize=1)
def _predictor(config: FrozenConfigDict, mesh: Mesh) -> Predictor:
    """See ``build_predictor``; ``config`` is the ``model`` group."""
    model = build_model(config)

    def predict(variables: Any, inputs: Inputs) -> tuple[jax.Array, jax.Array | None]:
        score, out = models.apply(model, variables, for_evaluation(inputs, config))
        if inputs.points is None:
            return score, None
        away = landmark_readout.distances(variables["params"], out["frame_features"], inputs.points)
        return score, away * config.rgb.image_size / 2

    return jax.jit(predict, out_shardings=sharding.replicated(mesh))


def by_batch(function: Callable[[Inputs], Any], split: Split, config: ConfigDict, mesh: Mesh) -> Iterator[Any]:
    """Applies a jitted function to all clips of a split in order, and yields the results of each batch of b clips.

    Args:
      function: from ``Inputs`` of B clips on the devices to a pytree of arrays (B, ...).
      config: the whole configuration.

    Yields:
      The pytree with NumPy arrays (b, ...). Rows that pad the last batch are removed.
    """
    size = -(-config.evaluation.batch_size // mesh.size) * mesh.size
    for batch in evaluation_batches(split, config, size):
        assert batch.mask is not None
        found = function(sharding.put(batch.inputs, mesh))
        yield jax.tree.map(lambda x, shown=batch.mask > 0: np.asarray(x)[shown], found)


def predict(
    predictor: Predictor, variables: Any, split: Split, config: ConfigDict, mesh: Mesh, output: Output | None
) -> Predictions:
    """Scores every clip of a split once. For ``output``, see ``Predictions``."""
    infos = split.infos
    # Sorted by length, because every clip in a batch costs as much as the longest.
    order = sorted(range(len(infos)), key=lambda i: -infos[i].num_frames)
    scores: list[np.ndarray] = []
    away: list[np.ndarray] = []
    quiet = not sharding.is_first_process()
    with Progress(len(infos), "clip", what="evaluating", quiet=quiet, leave=False) as progress:
        for score, distances in by_batch(functools.partial(predictor, variables), Split(split, order), config, mesh):
            scores.append(score)
            if distances is not None:
                away.append(distances)
            progress.update(len(score))
    error = float(np.nanmean(np.concatenate(away))) if away else None
    raw = np.concatenate(scores)[np.argsort(order)]
    return Predictions(infos, raw, output, rated=config.loss.name != LANDMARKS, landmark_error=error)


def summary(predictions: Predictions) -> dict[str, float]:
    """The metrics of a split, without intervals, to monitor training."""
    found = {name: metric(measured_by(name, predictions), predictions.target) for name, metric in _metrics(predictions)}
    error = predictions.landmark_error
    return found if error is None else found | {metrics.LANDMARK_ERROR: error}


def selection_metric(config: ConfigDict) -> str:
    """The metric that selects the checkpoint on validation subjects; see ``metrics.is_better``."""
    if config.loss.name == LANDMARKS:
        return metrics.LANDMARK_ERROR
    return "uar" if config.model.head.num_classes else "spearman"


def write_report(predictions: Predictions, folder: pathlib.Path, config: ConfigDict, title: str) -> dict[str, Any]:
    """Writes metrics.json, predictions.csv and plots into ``folder``. Returns the contents of metrics.json.

    With several expressions, metrics are also computed within each expression and averaged, as in the paper.
    """
    expressions = sorted({info.expression for info in predictions.infos})
    draws = config.evaluation.bootstrap
    report: dict[str, Any] = {
        "title": title,
        "clips": len(predictions.infos),
        "subjects": len(set(predictions.subjects)),
        "all": _table(predictions, draws),
    }
    if predictions.landmark_error is not None:
        report["all"][metrics.LANDMARK_ERROR] = {"value": predictions.landmark_error, "interval": None}
    if predictions.output is not None:
        report["output"] = {"method": str(predictions.output)} | predictions.output.as_dict()
    if len(expressions) > 1 and predictions.rated:
        report["expressions"] = {name: _table(_only(predictions, name), draws) for name in expressions}
        report["mean_over_expressions"] = _table(predictions, draws, [i.expression for i in predictions.infos])
    if predictions.output is not None:
        report["confusion"] = agreement.confusion(predictions.score, predictions.target)
        report["risk_coverage"] = agreement.risk_coverage(
            predictions.score, predictions.target, predictions.output.spread(predictions.raw)
        )
    if not sharding.is_first_process():
        return report
    folder.mkdir(parents=True, exist_ok=True)
    if predictions.rated:
        _write_csv(predictions, folder / run.PREDICTIONS)
    if predictions.output is not None:
        groups = [info.expression for info in predictions.infos]
        training_log.plot_scatter(folder / run.SCATTER, predictions.score, predictions.target, groups, title)
        agreement.plot(folder / run.AGREEMENT, predictions.score, predictions.target, report, title)
    json_files.write(folder / run.METRICS, report)  # last: it marks a complete report
    return report


def format_report(report: dict[str, Any]) -> str:
    """A report as text for the terminal."""
    lines = [f"{report['title']}: {report['clips']} clips of {report['subjects']} subjects"]
    if "output" in report:
        lines.append(f"  scores are {report['output']['method']}")
    lines += [_metric_line(name, entry) for name, entry in report["all"].items()]
    if "mean_over_expressions" in report:
        lines.append("  mean over expressions")
        lines += [_metric_line(name, entry) for name, entry in report["mean_over_expressions"].items()]
    return "\n".join(lines)


def _metric_line(name: str, entry: dict[str, Any]) -> str:
    value = "undefined" if entry["value"] is None else f"{entry['value']:7.4f}"
    interval = entry["interval"]
    return f"  {name:12s} {value}" + (f"   95% [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _only(predictions: Predictions, expression: str) -> Predictions:
    chosen = [i for i, info in enumerate(predictions.infos) if info.expression == expression]
    infos = [predictions.infos[i] for i in chosen]
    return dataclasses.replace(predictions, infos=infos, raw=predictions.raw[chosen])


def _metrics(predictions: Predictions) -> Iterable[tuple[str, metrics.Metric]]:
    """The names and functions of the metrics to compute."""
    if not predictions.rated:
        return ()
    return (metrics.CLASSIFICATION if predictions.raw.ndim == 2 else metrics.REGRESSION).items()


def _table(predictions: Predictions, draws: int, groups: Sequence[str] | None = None) -> dict[str, Any]:
    target, subjects = predictions.target, predictions.subjects
    return {
        name: metrics.with_interval(metric, measured_by(name, predictions), target, subjects, draws, groups)
        for name, metric in _metrics(predictions)
    }


@dataclasses.dataclass(frozen=True)
class Written:
    """The predictions of a report, read back from predictions.csv."""

    clips: list[str]  # (N,) ids
    subjects: list[str]  # (N,) ids
    target: np.ndarray  # (N,) ratings, or classes
    score: np.ndarray  # (N,) values on the rating scale; for a classifier, its logits (N, classes)
    raw: np.ndarray  # (N,) values before the output step; for a classifier, the same logits as ``score``


def measured_by(metric: str, found: Predictions | Written) -> np.ndarray:
    """What to compute a metric from: raw values for metrics of ranks, because scores tie where the scale ends."""
    return found.raw if metric in metrics.OF_RANKS else found.score


def read_predictions(folder: pathlib.Path) -> Written:
    """Reads the predictions in a report's folder.

    Raises:
      UserError: damaged_file.
      FileNotFoundError: the folder has none.
    """

    def numbers(name: str) -> np.ndarray:
        found = np.array([float(tables.with_point(row[name])) for row in rows.values()])
        if not np.isfinite(found).all():
            raise ValueError(f"{name} has a number that is not finite")
        return found

    path = folder / run.PREDICTIONS
    columns, rows = tables.read_table(path, ("clip", "subject", "target"), Problems())
    logits = [name for name in columns if name.startswith("logit_")]
    try:
        if not rows:
            raise ValueError("no clips")
        if logits:
            score = raw = np.stack([numbers(name) for name in logits], axis=1)
        else:
            score, raw = numbers("score"), numbers("raw")
        clips, subjects = ([row[name] for row in rows.values()] for name in ("clip", "subject"))
        return Written(clips, subjects, numbers("target"), score, raw)
    except (KeyError, ValueError) as error:
        raise UserError("damaged_file", f"{path}: damaged ({error!r}); evaluate this checkpoint again") from error


def _write_csv(predictions: Predictions, path: pathlib.Path) -> None:
    if predictions.output is None:
        outputs, names = predictions.raw, [f"logit_{i}" for i in range(predictions.raw.shape[1])]
    else:
        outputs, names = np.stack([predictions.score, predictions.raw], axis=1), ["score", "raw"]
    rows = [["clip", "subject", "expression", "target", *names]]
    for info, row in zip(predictions.infos, outputs, strict=True):
        rows.append([info.id, info.subject, info.expression, str(info.score), *(f"{x:.6f}" for x in row)])
    write_atomically(path, tables.csv_text(rows))
