"""Temporal windows of a clip: what the score could have been, had the recording begun or ended elsewhere."""

import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax.batches.pipeline import Sampler
from tramp_jax.batches.view import View
from tramp_jax.data.clips import Clip
from tramp_jax.models import Inputs

SHORTEST = 0.75  # share of the clip that the shortest window shows


def sample_and_windows(clip: Clip, config: ConfigDict, count: int, rng: np.random.Generator) -> tuple[Inputs, Inputs]:
    """A clip as the model is tested on it, and ``count`` random windows of it.

    The windows show 75 to 100 % of the clip, and of its frames only those of the whole clip's view, so the spatial
    encoder has nothing new to see. With ``data.still`` they are all the same.

    Returns:
      The sample, without a batch axis; and the D = ``count`` windows without ``frames``, which are the sample's.
    """
    n = len(clip.landmarks)
    views = [View.of(config, n)]
    for _ in range(count):
        length = max(1, round(n * rng.uniform(SHORTEST, 1)))
        start = int(rng.integers(n - length + 1))
        views.append(View.of(config, n, window=(start, start + length)))
    shared, rows = Sampler(config).views(clip, views)
    whole: Inputs = jax.tree.map(lambda x: x[0], rows)
    sample = whole.replace(frames=shared.frames, frames_present=shared.frames_present)
    return sample, jax.tree.map(lambda x: x[1:], rows)
