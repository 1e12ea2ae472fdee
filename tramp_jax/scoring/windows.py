"""Temporal windows of a clip: what a score could have been, had the recording begun or ended elsewhere."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tramp_jax.batches import sampling
from tramp_jax.batches.pipeline import Batch, Sampler
from tramp_jax.data.clips import Clip
from tramp_jax.models import reads_frames, reads_trajectories

SHORTEST = 0.75  # share of the clip that the shortest window shows


def sample_and_windows(clip: Clip, config: ConfigDict, count: int, rng: np.random.Generator) -> tuple[Batch, Batch]:
    """A clip as the model is tested on it, and ``count`` random windows of it, as batches.

    The windows show 75 to 100 % of the clip and share the frames of the test sample, so that the spatial encoder has
    nothing new to see.

    Returns:
      The sample, a batch of one: ``frames`` (1, K, S, S, 3) with ``frame_index`` (1, F), ``trajectories`` (1, T, 63, C)
      with ``index_t`` (1, T), as far as the model reads them; and the windows: all but ``frames`` with D = ``count``
      rows.
    """
    sample = Sampler(config).test(clip)
    del sample["target"]
    one = {name: x[None] for name, x in sample.items()}
    n = len(clip.landmarks)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        length = max(1, round(n * rng.uniform(SHORTEST, 1)))
        start = int(rng.integers(n - length + 1))
        rows.append(_window(clip, config, start, length))
    return one, {name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def _window(clip: Clip, config: ConfigDict, start: int, length: int) -> Batch:
    model, data, head = config.model, config.data, config.landmarks
    window: Batch = {}
    if reads_trajectories(model):
        T = model.trajectory.length
        channels = model.trajectory.channels
        whole = sampling.trajectory(clip, channels, head.normalise, head.frontalise)[start : start + length]
        taken = sampling.trajectory_frames(length, T, "last", None, data.padding)
        window["trajectories"] = sampling.extend(whole, T, data.padding, channels)[taken]
        window["index_t"] = sampling.position(taken, T)
    if reads_frames(model):
        n, F = len(clip.landmarks), model.rgb.num_frames
        shown = np.unique(sampling.rgb_frames(n, F, None, data.padding))  # as the sample has them, in this order
        inside = np.flatnonzero((shown >= start) & (shown < start + length))
        inside = inside if len(inside) else np.arange(len(shown))
        window["frame_index"] = inside[sampling.rgb_frames(len(inside), F, None)].astype(np.int32)
    return window
