"""Names frames in messages: people count them from 1, as image files are numbered. Indices in data count from 0."""

import numpy as np
from numpy.typing import ArrayLike


def spell(frames: ArrayLike) -> str:
    """The frame or frames at these indices, for a message: "frame 13", "frames 4-8, 13 (6)"."""
    numbers = np.atleast_1d(frames) + 1
    if len(numbers) == 1:
        return f"frame {numbers[0]}"
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    more = f" and {len(parts) - 10} more runs" if len(parts) > 10 else ""
    return f"frames {', '.join(parts[:10])}{more} ({len(numbers)})"
