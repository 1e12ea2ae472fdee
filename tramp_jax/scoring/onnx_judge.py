"""Scoring with ONNX Runtime instead of XLA: see docs/export.md for what it gives on CPUs."""

import importlib.util
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from tramp_jax.batches.pipeline import Batch
from tramp_jax.data.clips import Clip
from tramp_jax.models import build_model, reads_frames
from tramp_jax.models.former_dfer import SFormer
from tramp_jax.scoring.members import Member
from tramp_jax.scoring.windows import sample_and_windows

_FRAMES_AT_ONCE = 16


def missing() -> list[str]:
    """Packages of the extra ``onnx`` that are not installed."""
    return [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]


def open_session(model: bytes | str | os.PathLike[str], threads: int = 0) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
      model: serialised, or the path of a file.
      threads: in which it computes; 0 for as many as this process may use.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    # By itself the runtime pins threads to cores that a container may not have, and warns of it.
    options.intra_op_num_threads = threads or _usable_cores()
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else os.fspath(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxJudge:
    """Scores clips as ``scoring.members.Judge`` does, with the graph of the member in ONNX Runtime.

    The graph is cut in two behind the frame features, so that frames are encoded a few at a time: what lies between the
    layers then stays in the processor's cache. The draws have dropout and are computed by JAX, from the same features:
    no frame is encoded twice.

    Args:
      member: the model.
      draws: how many windows of a clip are scored with dropout besides the clip itself.
      threads: see ``open_session``.
    """

    def __init__(self, member: Member, draws: int, threads: int = 0):
        from onnx.utils import Extractor

        from tramp_jax.export.onnx_graph import FRAME_FEATURES, SCORE, build

        self.member, self.draws = member, draws
        model = build(member.config, member.variables)
        inputs = [entry.name for entry in model.graph.input]
        self._encoder = None
        if reads_frames(member.config.model):
            part = Extractor(model).extract_model(["frames"], [FRAME_FEATURES])
            self._encoder = open_session(part.SerializeToString(), threads)
            inputs = [FRAME_FEATURES, *(name for name in inputs if name != "frames")]
            model = Extractor(model).extract_model(inputs, [SCORE])
        self._rest = open_session(model.SerializeToString(), threads)
        self._inputs, self._features = inputs, FRAME_FEATURES
        self._draw = _drawing(member.config)

    def __call__(self, clip: Clip) -> tuple[float, np.ndarray]:
        """The score of a clip, and those of its windows (draws,). The windows depend on the clip's id alone.

        Raises:
          ValueError: the clip lacks what the model reads.
        """
        config = self.member.config
        seed = zlib.crc32(clip.info.id.encode())
        sample, windows = sample_and_windows(clip, config, self.draws, np.random.default_rng(seed))
        encoded = None
        if self._encoder is not None:
            frames = sample["frames"]
            at_once = (
                frames.shape[1] if config.model.rgb.scrambled_frames else _FRAMES_AT_ONCE
            )  # mixed before they are cut
            cuts = [frames[:, i : i + at_once] for i in range(0, frames.shape[1], at_once)]
            features = np.concatenate([self._encoder.run(None, {"frames": cut})[0] for cut in cuts])
            sample = sample | {self._features: features}
            encoded = _filled(features, config.model.rgb.num_frames)[None]
        (score,) = self._rest.run(None, {name: sample[name] for name in self._inputs})
        if not windows:
            return float(score[0]), np.zeros(0)
        drawn = self._draw(self.member.variables, encoded, windows, jax.random.key(seed))
        return float(score[0]), np.asarray(drawn, np.float64)

    def many(self, clips: Sequence[Clip]) -> list[tuple[float, np.ndarray]]:
        """Of several clips what calling gives of each: one after the other, since a single one fills a CPU."""
        return [self(clip) for clip in clips]


def _filled(features: np.ndarray, count: int) -> np.ndarray:
    """Frame features (K, C) and zeros after them, (count, C): one shape and one compilation for all clips."""
    return np.concatenate([features, np.zeros((count - len(features), features.shape[1]), features.dtype)])


def _drawing(config: ConfigDict) -> Callable[..., Any]:
    """The jitted (variables, frame features (1, F, C) or None, windows, key) -> scores of the windows (D,)."""
    model = build_model(config.model)

    def draw(variables: Any, features: jax.Array | None, windows: Batch, key: jax.Array) -> jax.Array:
        def encoded(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            if not isinstance(context.module, SFormer):
                return call(*args, **kwargs)
            assert features is not None
            return features[0].astype(args[0].dtype)

        # The encoder is told what it would have found, so that the frames may be of no size.
        frames = None if features is None else jnp.zeros((*features.shape[:2], 1, 1, 3))
        with nn.intercept_methods(encoded):
            return model.apply(
                variables,
                frames,
                windows.get("trajectories"),
                windows.get("index_t"),
                frame_index=windows.get("frame_index"),
                dropout=True,
                rngs={"dropout": key},
            )[0]

    return jax.jit(draw)
