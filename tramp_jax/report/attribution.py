"""Attributes a clip's score to regions and moments, by integrated gradients over trajectory and frames.

The baseline is the same person not moving: the clip's first frame, held still, with the clip's ``index_t``. So an
attribution says how the motion changed the score, and anything that never moves gets exactly zero. Gradients are
integrated along a straight line from the baseline to the clip (Sundararajan, Taly and Yan, "Axiomatic Attribution for
Deep Networks", ICML 2017; see ``quadrature``). Attributions add up to score − baseline score (completeness); each
attribution reports how closely.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from ml_collections import ConfigDict

from tramp_jax import channels, models
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.batches.pipeline import Sampler, all_frames
from tramp_jax.batches.view import BLANK, View
from tramp_jax.data import landmarks
from tramp_jax.data.clips import Clip, decode_frame
from tramp_jax.errors import UserError
from tramp_jax.models import Inputs, build_model, input_shapes, reads_frames, reads_trajectories
from tramp_jax.output import Output
from tramp_jax.report.motion import inter_ocular
from tramp_jax.report.quadrature import NODES, NOISE, integrate

# The parts of a frame that are not near a landmark: cheeks, forehead, hair, room.
ELSEWHERE = "elsewhere"
# The streams of a model, as keys of ``Attribution.read``.
LANDMARKS, PICTURES = "landmarks", "pictures"

_MOST_PATCHES = 32  # along a side of the frames' heat map
_NEAR = 0.3  # in units of the inter-ocular distance; patches farther from all landmarks are ELSEWHERE
_FLOATS_AT_ONCE = 4_000_000  # input values in one gradient; bounds the memory of the activations


@dataclasses.dataclass(frozen=True)
class Attribution:
    """How much each input changed the score of a clip of n frames, in rating points."""

    score: float  # the clip's score
    baseline_score: float  # score of the same person not moving
    # (n, 63, C) float64, by frame, landmark and channel; None if the model reads no trajectories. If a short clip
    # loops, this sums over all repeats of a frame.
    trajectory: np.ndarray | None
    channels: tuple[str, ...]  # names of the C channels, see ``tramp_jax.channels``
    frames: np.ndarray | None  # (n, G, G) float64, by frame and patch (row, column); None if the model reads no frames
    regions: np.ndarray  # (n, R) float64, both streams by frame and region, in the order of ``region_names``
    region_names: tuple[str, ...]  # ``landmarks.REGIONS``, and ELSEWHERE if the model reads frames
    # (n,) bool for each stream of the model, LANDMARKS or PICTURES: whether it read the frame
    read: Mapping[str, np.ndarray]
    error: float  # |sum of all attributions − (score − baseline score)|
    converged: bool  # whether the error is below the requested tolerance
    evaluations: int  # number of gradients computed

    @property
    def difference(self) -> float:
        """How much the motion changed the score."""
        return self.score - self.baseline_score

    @property
    def relative_error(self) -> float | None:
        """``error`` as a share of the difference; None if the motion hardly changed the score."""
        negligible = abs(self.difference) <= 10 * NOISE * max(1.0, abs(self.score))
        return None if negligible else self.error / abs(self.difference)

    @property
    def by_region(self) -> dict[str, float]:
        """Attribution of each region, over all moments."""
        return dict(zip(self.region_names, self.regions.sum(axis=0).tolist(), strict=True))

    @property
    def by_moment(self) -> np.ndarray:
        """(n,) attribution of each frame, over all regions."""
        return self.regions.sum(axis=1)

    @property
    def by_stream(self) -> dict[str, np.ndarray]:
        """(n, R) attribution by frame and region of each stream; ``regions`` is their sum."""
        of_landmarks = np.zeros_like(self.regions)
        if self.trajectory is not None:
            of_landmarks[:, : len(landmarks.REGIONS)] = _sum_by_region(self.trajectory)
        parts = {LANDMARKS: of_landmarks, PICTURES: self.regions - of_landmarks}
        return {stream: parts[stream] for stream in self.read}

    @property
    def by_input(self) -> dict[str, float]:
        """Attribution of each kind of input, such as positions, colours and frames."""
        parts: dict[str, float] = {}
        if self.trajectory is not None:
            for channel, effect in zip(self.channels, self.trajectory.sum(axis=(0, 1)).tolist(), strict=True):
                kind = next(kind for prefix, kind in channels.KINDS.items() if channel.startswith(prefix))
                parts[kind] = parts.get(kind, 0.0) + effect
        if self.frames is not None:
            parts["frames"] = float(self.frames.sum())
        return parts


def mean(found: Sequence[Attribution]) -> Attribution:
    """The attribution of the mean score of several models, which may read different inputs of the clip.

    Its error is the mean of theirs. If their patches differ in size, it has smaller ones that fit into all of them.
    """
    n, share = len(found[0].regions), 1 / len(found)
    names = tuple(dict.fromkeys(name for each in found for name in each.channels))
    kinds = max((each.region_names for each in found), key=len)  # ELSEWHERE is the last
    streams = dict.fromkeys(name for each in found for name in each.read)
    side = math.lcm(*(each.frames.shape[1] for each in found if each.frames is not None))
    trajectory = np.zeros((n, landmarks.NUM_LANDMARKS, len(names)))
    frames, regions = np.zeros((n, side, side)), np.zeros((n, len(kinds)))
    for each in found:
        regions[:, : len(each.region_names)] += share * each.regions
        if each.trajectory is not None:
            trajectory[:, :, [names.index(name) for name in each.channels]] += share * each.trajectory
        if each.frames is not None:
            times = side // each.frames.shape[1]
            frames += share * each.frames.repeat(times, axis=1).repeat(times, axis=2) / times**2
    return Attribution(
        score=float(np.mean([each.score for each in found])),
        baseline_score=float(np.mean([each.baseline_score for each in found])),
        trajectory=trajectory if names else None,
        channels=names,
        frames=None if all(each.frames is None for each in found) else frames,
        regions=regions,
        region_names=kinds,
        read={name: np.any([each.read[name] for each in found if name in each.read], axis=0) for name in streams},
        error=float(np.mean([each.error for each in found])),
        converged=all(each.converged for each in found),
        evaluations=sum(each.evaluations for each in found),
    )


class Explainer:
    """Attributes scores of a model to the motion of a clip. Compiles only once.

    Attributes:
      tolerance: largest error of completeness, as a share of the score difference.
      max_evaluations: most gradients for a clip; one panel is always computed. If they are not enough, the attribution
        is not ``converged``.
    """

    tolerance = 0.01
    max_evaluations = 384

    def __init__(self, config: ConfigDict, output: Output | None = None):
        """``output`` turns raw values into scores; None explains raw values. Raises UserError for a classifier."""
        if config.model.head.num_classes:
            raise UserError(
                "classifier",
                f"model.head.num_classes is {config.model.head.num_classes}, but only the scores of a regression model "
                "can be explained",
            )
        self._config = config
        self._still = config.copy_and_resolve_references()
        with self._still.unlocked():
            self._still.data.still = True
        in_float32 = config.model.copy_and_resolve_references()
        with in_float32.unlocked():
            in_float32.precision = "float32"  # steps along the line are small
        self._gradients = _build_gradients(in_float32, output)

    def __call__(self, variables: Any, clip: Clip) -> Attribution:
        """Explains the score of a clip by the model with these ``variables``."""
        n, model = len(clip.landmarks), self._config.model
        sample, baseline = self.ends(clip)
        view = View.of(self._config, n)
        gradients = functools.partial(self._gradients, variables, sample, baseline)
        found = integrate(gradients, self._at_once(), self.tolerance, self.max_evaluations)

        trajectory, patches, read = None, None, {}
        names = landmarks.REGIONS + ((ELSEWHERE,) if reads_frames(model) else ())
        regions = np.zeros((n, len(names)))
        if reads_trajectories(model):
            read[LANDMARKS] = np.isin(np.arange(n), view.trajectory)
            trajectory = _sum_by_frame(found.parts["trajectories"], view.trajectory, n)
            regions[:, : len(landmarks.REGIONS)] += _sum_by_region(trajectory)
        if reads_frames(model):
            read[PICTURES] = np.isin(np.arange(n), view.frames)
            patches = _sum_by_frame(found.parts["frames"], view.frames, n)
            where = patch_regions(clip, patches.shape[1])
            for region in range(len(names)):
                regions[:, region] += np.where(where == region, patches, 0).sum(axis=(1, 2))
        return Attribution(
            score=found.score,
            baseline_score=found.baseline_score,
            trajectory=trajectory,
            channels=() if trajectory is None else channels.names(model.trajectory.channels),
            frames=patches,
            regions=regions,
            region_names=names,
            read=read,
            error=abs(found.error),
            converged=found.converged,
            evaluations=found.evaluations,
        )

    def ends(self, clip: Clip) -> tuple[Inputs, Inputs]:
        """The inputs of a clip, and of the same person not moving: the ends of the line. They have no batch axis.

        Both contain the same zero padding, so padding gets no attribution.
        """
        sample, still = (all_frames(Sampler(config).test(clip).inputs) for config in (self._config, self._still))
        view = View.of(self._config, len(clip.landmarks))
        return sample, sample.replace(
            frames=_hold_still(sample.frames, still.frames, view.frames),
            trajectories=_hold_still(sample.trajectories, still.trajectories, view.trajectory),
        )

    def _at_once(self) -> int:
        """Nodes per call of the model: the largest divisor of ``NODES`` that fits into memory."""
        shapes = [shape for shape in input_shapes(self._config.model, 1).values() if shape is not None]
        fitting = _FLOATS_AT_ONCE // sum(math.prod(shape) for shape in shapes)
        return max(k for k in range(1, NODES + 1) if NODES % k == 0 and (k == 1 or k <= fitting))


def _build_gradients(config: ConfigDict, output: Output | None) -> Any:
    """A jitted function (variables, sample, baseline, nodes (K,), weights (K,)) -> (scores (K,), parts).

    ``config`` is the ``model`` group; ``parts`` is what these nodes contribute to ``quadrature.Integral.parts``.
    """
    model, image_size = build_model(config), config.rgb.image_size
    G = max(k for k in range(1, _MOST_PATCHES + 1) if image_size % k == 0)  # patches along a side

    def gradients(variables: Any, sample: Inputs, baseline: Inputs, nodes: jax.Array, weights: jax.Array) -> Any:
        ends = [for_evaluation(jax.tree.map(lambda x: x[None], inputs), config) for inputs in (baseline, sample)]
        # Only pixels and trajectories move along the line; index_t stays.
        origin, target = (_streams(jax.tree.map(lambda x: x[0], end)) for end in ends)
        change = jax.tree.map(jnp.subtract, target, origin)
        if "frames" in change:
            # The compiler may round both ends differently, but equal frames must change by exactly 0.
            same = jnp.all(sample.frames == baseline.frames, axis=(1, 2, 3), keepdims=True)
            change["frames"] = jnp.where(same, 0, change["frames"])
        K = len(nodes)
        at = jax.tree.map(lambda x, d: x + nodes.reshape(K, *[1] * d.ndim) * d, origin, change)
        index_t = None if ends[1].index_t is None else jnp.tile(ends[1].index_t, (K, 1))

        def total(moving: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            raw, _ = models.apply(model, variables, Inputs(**moving, index_t=index_t))
            scores = raw if output is None else output.score(raw, jnp)
            return scores.sum(), scores  # rows are independent, so the sum has the gradient of each

        slopes, scores = jax.grad(total, has_aux=True)(at)
        parts = jax.tree.map(lambda slope, d: jnp.tensordot(weights, slope, 1) * d, slopes, change)
        if "trajectories" in parts:  # each step of the encoder is the mean of several frames
            n = config.trajectory.patch
            parts["trajectories"] = jnp.repeat(parts["trajectories"], n, axis=0) / n
        if "frames" in parts:
            parts["frames"] = reduce(parts["frames"], "f (gy y) (gx x) c -> f gy gx", "sum", gy=G, gx=G)
        return scores, parts

    return jax.jit(gradients)


def _streams(inputs: Inputs) -> dict[str, jax.Array]:
    """The inputs that change along the line, by name."""
    named = {"frames": inputs.frames, "trajectories": inputs.trajectories}
    return {name: x for name, x in named.items() if x is not None}


def _hold_still(moving: np.ndarray | None, still: np.ndarray | None, source: np.ndarray) -> np.ndarray | None:
    """``still``, except where ``source`` is blank: there, ``moving``."""
    if moving is None or still is None:
        return None
    return np.where((source == BLANK).reshape(-1, *[1] * (still.ndim - 1)), moving, still)


def _sum_by_frame(values: np.ndarray, source: np.ndarray, n: int) -> np.ndarray:
    """Sums a stream's values (count, ...) over each of the clip's n frames: (n, ...)."""
    folded = np.zeros((n, *values.shape[1:]))
    own = source != BLANK
    np.add.at(folded, source[own], values[own])
    return folded


def _sum_by_region(trajectory: np.ndarray) -> np.ndarray:
    """Sums a trajectory's attribution (n, 63, C) over each of ``landmarks.REGIONS``: (n, 6)."""
    regions = np.zeros((len(trajectory), len(landmarks.REGIONS)))
    groups = trajectory.sum(axis=2).reshape(-1, len(landmarks.GROUPS), landmarks.GROUP_SIZE)
    for group, region in enumerate(landmarks.REGION_OF_GROUP):
        regions[:, region] += groups[:, group].sum(axis=1)
    return regions


def patch_regions(clip: Clip, count: int) -> np.ndarray:
    """The region of each patch of each frame: the nearest landmark's.

    A landmark counts both where it is and where it was in the first frame, since a moving lip changes the picture in
    both places. Patches far from all landmarks are ELSEWHERE. With ``count`` patches G along a side of a frame, the
    result is (n, G, G) int8 indices into ``landmarks.REGIONS``; ``len(landmarks.REGIONS)`` for ELSEWHERE.
    """
    assert clip.frames is not None, "patches are parts of frames"
    height, width = decode_frame(clip.frames[0]).shape[:2]
    points = landmarks.select(clip.landmarks, clip.layout).astype(np.float64)
    steps = np.arange(count) + 0.5
    y, x = np.meshgrid(steps * height / count, steps * width / count, indexing="ij")
    centres = np.stack([x.ravel(), y.ravel()], axis=-1)
    near = _NEAR * inter_ocular(points)
    of_landmark = np.repeat(landmarks.REGION_OF_GROUP, landmarks.GROUP_SIZE)
    regions = np.empty((len(points), count**2), np.int8)
    for t, now in enumerate(points):
        places = np.concatenate([now, points[0]])
        distance = np.linalg.norm(centres[:, None] - places, axis=-1)
        nearest = distance.argmin(axis=1)
        region = of_landmark[nearest % landmarks.NUM_LANDMARKS]
        regions[t] = np.where(distance.min(axis=1) <= near, region, len(landmarks.REGIONS))
    return regions.reshape(-1, count, count)
