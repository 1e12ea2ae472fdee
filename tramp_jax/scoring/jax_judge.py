"""Scores clips in JAX."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax import models
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.batches.pipeline import frame_slots, stacked, with_slots
from tramp_jax.data.clips import Clip
from tramp_jax.models import Inputs, build_model
from tramp_jax.scoring.members import Member
from tramp_jax.scoring.windows import sample_and_windows


class JaxJudge:
    """A ``judges.Judge`` that computes in JAX.

    Compiles once for each number of clips and of distinct frames (rounded up, see ``frame_slots``).

    Args:
      member: the model.
      draws: number of windows to score with dropout, besides the clip itself.
    """

    def __init__(self, member: Member, draws: int):
        self.member, self.draws = member, draws
        self._judge = _build(member.config)

    def many(self, clips: Sequence[Clip]) -> list[tuple[float, np.ndarray]]:
        """See ``judges.Judge``."""
        config = self.member.config
        seeds = [zlib.crc32(clip.info.id.encode()) for clip in clips]
        samples, windows = [], []
        for clip, seed in zip(clips, seeds, strict=True):
            sample, rows = sample_and_windows(clip, config, self.draws, np.random.default_rng(seed))
            samples.append(sample)
            windows.append(rows)
        counts = [len(sample.frames) for sample in samples if sample.frames is not None]
        if counts:
            samples = [with_slots(sample, frame_slots(max(counts), config)) for sample in samples]
        keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
        scores, drawn = self._judge(self.member.variables, stacked(samples), stacked(windows), keys)
        return [(float(score), np.asarray(row, np.float64)) for score, row in zip(scores, drawn, strict=True)]


def _build(config: ConfigDict) -> Callable[..., Any]:
    """The jitted (variables, samples, windows, keys) -> (scores (B,), scores of windows (B, D)) of B clips."""
    model, image_size = build_model(config.model), config.model.rgb.image_size

    def judge(variables: Any, sample: Inputs, windows: Inputs, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        sample = for_evaluation(jax.tree.map(lambda x: x[None], sample), image_size)
        score = models.apply(model, variables, sample)[0][0]
        count = max((len(x) for x in jax.tree.leaves(windows)), default=0)
        if not count:
            return score, score[None][:0]
        # Both calls encode the same frames, which the compiler does once.
        windows = windows.replace(frames=sample.frames)
        drawn = models.apply(model, variables, windows, dropout=True, rngs={"dropout": key})[0]
        return score, drawn

    return jax.jit(jax.vmap(judge, in_axes=(None, 0, 0, 0)))
