"""Scores clips in JAX."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tramp_jax import models
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.batches.pipeline import Sampler, frame_slots, stacked, with_slots
from tramp_jax.data.clips import Clip
from tramp_jax.models import Inputs, build_model
from tramp_jax.scoring.members import Member


class JaxJudge:
    """A ``judges.Judge`` that computes in JAX.

    Compiles once for each number of clips and of distinct frames (rounded up, see ``frame_slots``).
    """

    def __init__(self, member: Member):
        self.member = member
        config = member.config.model
        model = build_model(config)

        def judge(variables: Any, inputs: Inputs) -> jax.Array:
            return models.apply(model, variables, for_evaluation(inputs, config))[0]

        self._judge = jax.jit(judge)

    def many(self, clips: Sequence[Clip]) -> np.ndarray:
        """See ``judges.Judge``."""
        config = self.member.config
        samples = [Sampler(config).test(clip).inputs for clip in clips]
        counts = [len(sample.frames) for sample in samples if sample.frames is not None]
        if counts:
            samples = [with_slots(sample, frame_slots(max(counts), config)) for sample in samples]
        return np.asarray(self._judge(self.member.variables, stacked(samples)), np.float64)
