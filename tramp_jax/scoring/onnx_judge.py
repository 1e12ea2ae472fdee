"""Scores clips in ONNX Runtime, which is faster than XLA on CPUs, and frames in OpenVINO: see docs/export.md."""

import importlib.util
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tramp_jax import shards
from tramp_jax.batches.pipeline import Sampler
from tramp_jax.config import streams
from tramp_jax.data.clips import Clip
from tramp_jax.errors import UserError
from tramp_jax.models import Inputs
from tramp_jax.scoring.members import Member

PRECISIONS = FLOAT32, BFLOAT16 = "float32", "bfloat16"
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


def open_openvino() -> Any:
    """An ``openvino.Core``.

    Raises:
      UserError: missing_package without OpenVINO; bad_option if the processor lacks instructions for bfloat16.
    """
    # OpenVINO's converter, which is not used here, would report its use. Without this package, it cannot.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        why = 'the precision bfloat16 needs OpenVINO: pip install "tramp_jax[openvino]"'
        raise UserError("missing_package", why) from None
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError("bad_option", "this processor has no instructions for bfloat16; use the precision float32")
    return core


def has_bfloat16() -> bool:
    """Whether OpenVINO is installed and can compute in bfloat16 here."""
    try:
        open_openvino()
    except UserError:
        return False
    return True


class _Bfloat16Session:
    """A graph in OpenVINO, with bfloat16 products and convolutions; called like ``onnxruntime.InferenceSession``.

    It is compiled for each new shape, because OpenVINO cannot compile the frame encoder for any number of frames.
    """

    def __init__(self, model: bytes, threads: int):
        self._core, self._model = open_openvino(), model
        self._options = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads or shards.cores()}
        self._compiled: dict[str, Any] = {}

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        shapes = {name: list(x.shape) for name, x in inputs.items()}
        if str(shapes) not in self._compiled:
            model = self._core.read_model(self._model)
            model.reshape(shapes)
            self._compiled[str(shapes)] = self._core.compile_model(model, "CPU", self._options)
        return list(self._compiled[str(shapes)](inputs).values())


class OnnxJudge:
    """A ``judges.Judge`` that computes in ONNX Runtime.

    The graph is cut in two after the frame features. Frames are then encoded a few at a time, so that activations stay
    in the processor's cache, and a frame that repeats the one before is not encoded again. For ``threads``, see
    ``open_session``. With the ``precision`` bfloat16, OpenVINO encodes the frames, and the rest stays in float32.

    Attributes:
      encoder: the session of the part that encodes frames; None for a model without frames.

    Raises:
      UserError: with bfloat16: bad_option if the model does not read both streams; see also ``open_openvino``.
    """

    def __init__(self, member: Member, threads: int = 0, precision: str = FLOAT32):
        from onnx.utils import Extractor

        from tramp_jax.export.onnx_graph import FRAME_FEATURES, RAW, build

        if precision == BFLOAT16 and streams(member.config.model) != "both":
            raise UserError(
                "bad_option",
                f"{member.run}: the precision bfloat16 is only for models of both streams: without frames, it is not "
                "faster, and with frames alone, it moves scores too far; use float32",
            )
        self.member, self._in_bfloat16 = member, precision == BFLOAT16
        model = build(member.config, member.variables, member.output)
        inputs = [entry.name for entry in model.graph.input]
        self._of_frames = [name for name in inputs if name in ("frames", "frames_present")]
        self._inputs = [name for name in inputs if name not in self._of_frames]
        self.encoder: Any = None
        given = self._inputs
        if self._of_frames:
            part = Extractor(model).extract_model(self._of_frames, [FRAME_FEATURES]).SerializeToString()
            self.encoder = (_Bfloat16Session if self._in_bfloat16 else open_session)(part, threads)
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
        if self._in_bfloat16:  # always the same shape, so that it is compiled once
            fresh = np.pad(fresh, (0, -len(fresh) % _FRAMES_AT_ONCE), mode="edge")
        starts = range(0, len(fresh), _FRAMES_AT_ONCE)
        return np.concatenate([self._run_encoder(sample, fresh[i : i + _FRAMES_AT_ONCE]) for i in starts])[where]

    def _run_encoder(self, sample: Inputs, chosen: np.ndarray | slice) -> np.ndarray:
        """Features of the ``chosen`` frames."""
        inputs = {name: getattr(sample, name)[None, chosen] for name in self._of_frames}
        features: np.ndarray = self.encoder.run(None, inputs)[0]
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
