"""Trained models to score with: the checkpoint of a run, and the spread of its scores."""

import dataclasses
import hashlib
import json
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax import run, sharding, training_data
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.batches.pipeline import Batch, frame_slots, padded
from tramp_jax.checkpoint import BEST, Checkpoints
from tramp_jax.data.clips import Clip
from tramp_jax.errors import UserError
from tramp_jax.models import abstract_variables, build_model
from tramp_jax.scoring.windows import sample_and_windows
from tramp_jax.training_data import TrainedOn

if TYPE_CHECKING:
    from tramp_jax.scoring.onnx_judge import OnnxJudge

AUTO, JAX, ONNX = "auto", "jax", "onnx"
RUNTIMES = (AUTO, JAX, ONNX)


@dataclasses.dataclass(frozen=True)
class Member:
    """One trained model.

    Attributes:
      run: its folder, with its checkpoints.
      fold: of the run's data, None where it has no folds.
      config: it was trained with.
      step: of the checkpoint.
      variables: of the model.
      trained_on: its data; None where an older run does not say.
      id: short digest of configuration and variables: equal ids give equal scores.
    """

    run: pathlib.Path
    fold: int | None
    config: ConfigDict
    step: int
    variables: Any
    trained_on: TrainedOn | None
    id: str


def load_member(folder: pathlib.Path, which: str = BEST) -> Member:
    """Loads the model of a run of train.py, or of one of its folds (``RUN/fold_0``).

    Args:
      folder: of the run or fold.
      which: "best", "last" or a step number.

    Raises:
      UserError: not a run, a run of several folds, a classifier, or no such checkpoint.
    """
    config = run.load_config(folder)
    if config.model.head.num_classes:
        raise UserError("classifier", f"{folder} is a classifier; scoring needs a model that was trained on scores")
    if not run.is_trained(folder):
        folds = run.trained_folds(folder)
        cure = f"name one or several of its folds: {folds[0]}" if folds else "train it first"
        raise UserError("missing_checkpoint", f"{folder} holds no checkpoints; {cure}")
    with Checkpoints(folder) as checkpoints:
        step, variables = checkpoints.restore_variables(which, abstract_variables(config.model), sharding.data_mesh())
    digest = hashlib.sha256(json.dumps(json.loads(config.model.to_json()), sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    trained_on = training_data.load(folder)
    return Member(folder, run.fold_of(folder), config, step, variables, trained_on, digest.hexdigest()[:12])


def make_judge(member: Member, draws: int, runtime: str = AUTO) -> "Judge | OnnxJudge":
    """What scores clips by a member with ``draws`` windows, in this runtime.

    Both runtimes give the same scores to about 1e-5. "auto" is ONNX Runtime where float32 is computed on a CPU and the
    extra ``onnx`` is installed, else JAX.

    Raises:
      ValueError: an unknown runtime, or "onnx" where it is not installed.
    """
    from tramp_jax.scoring.onnx_judge import OnnxJudge, missing

    if runtime not in RUNTIMES:
        raise ValueError(f"runtime is {runtime!r}; known: {', '.join(RUNTIMES)}")
    if runtime == AUTO:
        suits = jax.default_backend() == "cpu" and member.config.model.precision == "float32"
        runtime = ONNX if suits and not missing() else JAX
    if runtime == JAX:
        return Judge(member, draws)
    if missing():
        raise ValueError(f'the ONNX runtime needs {" and ".join(missing())}: pip install "tramp_jax[onnx]"')
    return OnnxJudge(member, draws)


class Judge:
    """Scores clips by one member and draws what else it might have said.

    Compiles once for each number of clips at once and of their distinct frames (rounded up, see ``frame_slots``).

    Args:
      member: the model.
      draws: how many windows of a clip are scored with dropout besides the clip itself.
    """

    def __init__(self, member: Member, draws: int):
        self.member, self.draws = member, draws
        self._judge = _build(member.config)

    def __call__(self, clip: Clip) -> tuple[float, np.ndarray]:
        """The score of a clip, and those of its windows (draws,). The windows depend on the clip's id alone.

        Raises:
          ValueError: the clip lacks what the model reads.
        """
        return self.many([clip])[0]

    def many(self, clips: Sequence[Clip]) -> list[tuple[float, np.ndarray]]:
        """Of several clips at once what calling gives of each."""
        config = self.member.config
        seeds = [zlib.crc32(clip.info.id.encode()) for clip in clips]
        made = [
            sample_and_windows(clip, config, self.draws, np.random.default_rng(seed))
            for clip, seed in zip(clips, seeds, strict=True)
        ]
        samples, windows = [{name: x[0] for name, x in sample.items()} for sample, _ in made], [w for _, w in made]
        if "frames" in samples[0]:
            slots = frame_slots(max(len(sample["frames"]) for sample in samples), config)
            samples = [padded(sample, slots) for sample in samples]
        keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
        scores, drawn = self._judge(self.member.variables, _stacked(samples), _stacked(windows), keys)
        return [(float(score), np.asarray(row, np.float64)) for score, row in zip(scores, drawn, strict=True)]


def _stacked(batches: Sequence[Batch]) -> Batch:
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def _build(config: ConfigDict) -> Callable[..., Any]:
    """The jitted (variables, samples, windows, keys), of B clips each -> (scores (B,), of their windows (B, D))."""
    model, image_size = build_model(config.model), config.model.rgb.image_size

    def judge(variables: Any, sample: Batch, windows: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        sample = for_evaluation({name: x[None] for name, x in sample.items()}, image_size)

        def apply(batch: Batch, **options: Any) -> jax.Array:
            inputs = sample.get("frames"), batch.get("trajectories"), batch.get("index_t")
            return model.apply(variables, *inputs, frame_index=batch.get("frame_index"), **options)[0]

        score = apply(sample)[0]
        # The compiler sees that both applications encode the same frames, and does so once.
        drawn = apply(windows, dropout=True, rngs={"dropout": key}) if windows else score[None][:0]
        return score, drawn

    return jax.jit(jax.vmap(judge, in_axes=(None, 0, 0, 0)))
