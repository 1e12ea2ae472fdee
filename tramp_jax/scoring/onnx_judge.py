"""Scores clips in ONNX Runtime, which is faster than XLA on CPUs: see docs/export.md."""

import importlib.util
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tramp_jax import shards
from tramp_jax.batches.pipeline import Sampler
from tramp_jax.data.clips import Clip
from tramp_jax.models import Inputs
from tramp_jax.scoring.members import Member

_FRAMES_AT_ONCE = 16


def missing() -> list[str]:
    """The packages of the extra ``onnx`` that are not installed."""
    return [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]


def open_session(model: bytes | str | os.PathLike[str], threads: int = 0) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
      model: a serialised model, or the path of one.
      threads: number of threads to compute with; 0 for all cores that this process may use.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    # By default, the runtime pins threads to cores that a container may not have, and warns about it.
    options.intra_op_num_threads = threads or shards.cores()
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else os.fspath(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class OnnxJudge:
    """A ``judges.Judge`` that computes in ONNX Runtime.

    The graph is cut in two after the frame features. Frames are then encoded a few at a time, so that activations stay
    in the processor's cache, and a frame that repeats the one before is not encoded again. For ``threads``, see
    ``open_session``.

    Attributes:
      encoder: the session of the part that encodes frames; None for a model without frames.
    """

    def __init__(self, member: Member, threads: int = 0):
        from onnx.utils import Extractor

        from tramp_jax.export.onnx_graph import FRAME_FEATURES, RAW, build

        self.member = member
        model = build(member.config, member.variables, member.output)
        inputs = [entry.name for entry in model.graph.input]
        of_frames = [name for name in inputs if name in ("frames", "frames_present")]
        self._inputs = [name for name in inputs if name not in of_frames]
        self.encoder: Any = None
        given = self._inputs
        if of_frames:
            part = Extractor(model).extract_model(of_frames, [FRAME_FEATURES])
            self.encoder = open_session(part.SerializeToString(), threads)
            given = [FRAME_FEATURES, *given]
        self._rest = open_session(Extractor(model).extract_model(given, [RAW]).SerializeToString(), threads)

    def many(self, clips: Sequence[Clip]) -> np.ndarray:
        """See ``judges.Judge``. Scores one clip after another, since a single one keeps a CPU busy."""
        return np.array([self._one(clip) for clip in clips], np.float64)

    def _one(self, clip: Clip) -> float:
        sample = Sampler(self.member.config).test(clip).inputs
        batch = {name: getattr(sample, name)[None] for name in self._inputs}
        if self.encoder is not None:
            batch["frame_features"] = self._encode(sample)  # has no batch axis
        (raw,) = self._rest.run(None, batch)
        return float(raw[0])

    def _encode(self, sample: Inputs) -> np.ndarray:
        """Features (K, C) of the distinct frames of one sample."""
        assert sample.frames is not None
        if self.member.config.model.rgb.scrambled_frames:  # mixes frames before they are encoded: all stay together
            return self._run_encoder(sample, slice(None))
        fresh, where = _without_repeats(sample.frames, sample.frames_present)
        starts = range(0, len(fresh), _FRAMES_AT_ONCE)
        return np.concatenate([self._run_encoder(sample, fresh[i : i + _FRAMES_AT_ONCE]) for i in starts])[where]

    def _run_encoder(self, sample: Inputs, chosen: np.ndarray | slice) -> np.ndarray:
        """Features of the ``chosen`` frames."""
        names = [entry.name for entry in self.encoder.get_inputs()]
        features: np.ndarray = self.encoder.run(None, {name: getattr(sample, name)[None, chosen] for name in names})[0]
        return features


def _without_repeats(frames: np.ndarray, present: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Finds neighbouring frames (K, S, S, 3) with equal pixels, as in a video resampled to a higher rate.

    A frame that is not ``present`` (K,) is encoded as zeros; None if all are.

    Returns:
      The places (N,) of the frames that differ from the one before, and for each of the K frames, which of the N it
      equals.
    """
    differs = np.array([True, *((a != b).any() for a, b in itertools.pairwise(frames))])
    if present is not None:
        differs[1:] |= present[1:] != present[:-1]
    return np.flatnonzero(differs), np.cumsum(differs) - 1
