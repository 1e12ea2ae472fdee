"""Judges compute the raw values of clips with a trained model, in JAX or ONNX Runtime."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from tramp_jax import models
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.batches.pipeline import Sampler, frame_slots, stacked, with_slots
from tramp_jax.data.clips import Clip
from tramp_jax.errors import UserError
from tramp_jax.models import Inputs, build_model
from tramp_jax.scoring import onnx_judge
from tramp_jax.scoring.members import Member

AUTO, JAX, ONNX = "auto", "jax", "onnx"
RUNTIMES = (AUTO, JAX, ONNX)


class Judge(Protocol):
    """Computes the raw values of one model. ``member.output`` turns them into scores."""

    def many(self, clips: Sequence[Clip]) -> np.ndarray:
        """The raw values (N,) float64 of N clips.

        Raises:
          UserError: a clip lacks something that the model reads.
        """
        ...


class JaxJudge:
    """A ``Judge`` that computes in JAX.

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
        """See ``Judge``."""
        config = self.member.config
        samples = [Sampler(config).test(clip).inputs for clip in clips]
        counts = [len(sample.frames) for sample in samples if sample.frames is not None]
        if counts:
            samples = [with_slots(sample, frame_slots(max(counts), config)) for sample in samples]
        return np.asarray(self._judge(self.member.variables, stacked(samples)), np.float64)


def make_judge(member: Member, runtime: str = AUTO, precision: str = onnx_judge.FLOAT32) -> Judge:
    """The judge for a model.

    Raw values of the two runtimes agree to about 1e-5. "auto" is ONNX Runtime for float32 on a CPU if the extra
    ``onnx`` is installed, and JAX otherwise. The precision "bfloat16" needs ONNX Runtime, see ``OnnxJudge``.

    Raises:
      UserError: bad_option for an unknown runtime or precision, or for bfloat16 in JAX; missing_package for "onnx"
        without its packages; see also ``OnnxJudge``.
    """
    for name, value, known in (("runtime", runtime, RUNTIMES), ("precision", precision, onnx_judge.PRECISIONS)):
        if value not in known:
            raise UserError("bad_option", f"{name} is {value!r}; use one of: {', '.join(known)}")
    if precision != onnx_judge.FLOAT32:
        if runtime == JAX:
            raise UserError("bad_option", f"the precision {precision} is not for the runtime jax; use onnx")
        runtime = ONNX
    missing = onnx_judge.missing()
    if runtime == AUTO:
        suits = jax.default_backend() == "cpu" and member.config.model.precision == "float32"
        runtime = ONNX if suits and not missing else JAX
    if runtime == JAX:
        return JaxJudge(member)
    if missing:
        raise UserError(
            "missing_package", f'the ONNX runtime needs {" and ".join(missing)}: pip install "tramp_jax[onnx]"'
        )
    return onnx_judge.OnnxJudge(member, precision=precision)
