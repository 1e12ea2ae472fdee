"""Windows of a clip in time: how its score would vary if the recording had begun or ended elsewhere."""

import jax
import numpy as np
from ml_collections import ConfigDict

from tramp_jax.batches.pipeline import Sampler, with_frames_of
from tramp_jax.batches.view import View
from tramp_jax.data.clips import Clip
from tramp_jax.models import Inputs

SHORTEST = 0.75  # of the clip


def sample_and_windows(clip: Clip, config: ConfigDict, count: int, rng: np.random.Generator) -> tuple[Inputs, Inputs]:
    """The evaluation sample of a clip, and ``count`` random windows of it.

    A window shows 75 to 100 % of the clip, and only frames that the sample has, so no further frame has to be encoded.
    With ``data.still``, all windows are alike.

    Returns:
      The sample, without a batch axis; and the D = ``count`` windows without ``frames``, which are those of the sample.
    """
    n = len(clip.landmarks)
    views = [View.of(config, n)]
    for _ in range(count):
        length = max(1, round(n * rng.uniform(SHORTEST, 1)))
        start = int(rng.integers(n - length + 1))
        views.append(View.of(config, n, window=(start, start + length)))
    shared, rows = Sampler(config).views(clip, views)
    sample, windows = (jax.tree.map(lambda x, part=part: x[part], rows) for part in (0, slice(1, None)))
    return with_frames_of(shared, sample), windows
