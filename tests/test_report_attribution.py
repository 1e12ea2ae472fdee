"""Integrated gradients: they add up, they are zero without motion, and they find what moves."""

import copy
import dataclasses

import cv2
import jax
import numpy as np
import pytest

from tests import tiny
from tests.linear import Linear
from tests.raises import user_error
from tramp_jax import evaluation, models, sharding, trainer
from tramp_jax.checkpoint import Checkpoints
from tramp_jax.data import datasets, landmarks
from tramp_jax.data.clips import Clip
from tramp_jax.output import Output
from tramp_jax.report import attribution
from tramp_jax.report.attribution import NODES, Attribution, Explainer, patch_regions
from tramp_jax.report.motion import inter_ocular
from tramp_jax.synthetic.faces import SyntheticFaces

TIMES = 16  # frames of a clip, as many as the tiny model reads


def frame_by_frame():
    """The tiny configuration, but each step of the encoder is a single frame, not a mean of several."""
    config = tiny.get_config().unlock()
    config.model.trajectory.patch = 1
    return config


@pytest.fixture
def config():
    return frame_by_frame()


@pytest.fixture(scope="module")
def of_tiny_model():
    return Explainer(frame_by_frame())


@pytest.fixture
def explainer(of_tiny_model, optimised):
    """Explains the tiny model with both streams; compiled once."""
    return of_tiny_model


@pytest.fixture(scope="module")
def source():
    return SyntheticFaces(6, 1, seed=11)


def thinned(source: SyntheticFaces, index: int) -> Clip:
    """Clip ``index`` at ``TIMES`` moments, as uncompressed frames. Only these are painted."""
    _, points = source.scene(index)
    taken = np.linspace(0, len(points) - 1, TIMES).astype(int)
    painter = source.painter(index)
    return as_clip(source, index, points[taken, :106].astype(np.float32), np.stack([painter.paint(t) for t in taken]))


def as_clip(source: SyntheticFaces, index: int, points: np.ndarray, frames: np.ndarray) -> Clip:
    chosen = landmarks.select(points, "insightface106")
    pixels = np.stack([landmarks.pixel_values(*pair) for pair in zip(frames, chosen, strict=True)])
    return Clip(source.infos[index], points, "insightface106", pixels, frames, 10.0)


def moving_in(source: SyntheticFaces, index: int, region: str) -> Clip:
    """Clip ``index`` in which only one region moves; everything else stays as in the first frame."""
    whole = thinned(source, index)
    group = landmarks.GROUPS.index(region)
    slots = landmarks.LAYOUTS["insightface106"].slots[group * 9 : group * 9 + 9]
    points = np.repeat(whole.landmarks[:1], TIMES, axis=0)
    # A region moves relative to the nose, which stays.
    nose = whole.landmarks[:, [landmarks.LAYOUTS["insightface106"].nose_tip]]
    points[:, slots] = whole.landmarks[:, slots] - nose + nose[:1]
    frames = np.repeat(whole.frames[:1], TIMES, axis=0)
    for t in range(TIMES):
        inside = np.zeros(frames.shape[1:3], np.uint8)
        for place in (whole.landmarks[0, slots], whole.landmarks[t, slots]):
            cv2.fillConvexPoly(inside, cv2.convexHull(np.rint(place).astype(np.int32)), 1)
        inside = cv2.dilate(inside, np.ones((5, 5), np.uint8)) > 0
        frames[t][inside] = whole.frames[t][inside]
    return as_clip(source, index, points, frames)


def one_panel(explainer: Explainer) -> Explainer:
    """The same explainer with the smallest budget."""
    cheap = copy.copy(explainer)
    cheap.max_evaluations = NODES
    return cheap


def check_complete(found, tolerance: float) -> None:
    assert found.converged
    assert abs(found.regions.sum() - found.difference) <= tolerance * abs(found.difference)
    assert found.error == pytest.approx(abs(found.regions.sum() - found.difference), abs=1e-9)
    assert found.relative_error <= tolerance
    parts = [x.sum(axis=(1, 2)) for x in (found.trajectory, found.frames) if x is not None]
    np.testing.assert_allclose(sum(parts), found.by_moment, atol=1e-12)
    for part, effects in zip(parts, found.by_stream.values(), strict=True):
        np.testing.assert_allclose(part, effects.sum(axis=1), atol=1e-12)
    assert sum(found.by_input.values()) == pytest.approx(found.regions.sum())


def test_attributions_add_up_to_the_score_difference(explainer, source, tiny_variables):
    """The scores are also those of the evaluation."""
    config = frame_by_frame()
    mesh = sharding.data_mesh()
    predictor = evaluation.build_predictor(config, mesh)
    for index in (2, 7):
        clip = thinned(source, index)
        found = explainer(tiny_variables, clip)
        check_complete(found, 0.01)
        assert found.regions.shape == (len(clip.landmarks), 7)
        assert found.trajectory.shape == (len(clip.landmarks), 63, 5)
        sample, baseline = explainer.ends(clip)
        for part, score in ((sample, found.score), (baseline, found.baseline_score)):
            inputs = jax.tree.map(lambda x: x[None], part)
            assert float(predictor(tiny_variables, inputs)[0][0]) == pytest.approx(score, abs=1e-5)
    np.testing.assert_array_equal(baseline.frames, np.repeat(sample.frames[:1], len(sample.frames), axis=0))
    np.testing.assert_array_equal(baseline.index_t, sample.index_t)


def test_a_more_sensitive_model_is_explained_as_well(explainer, source, tiny_variables):
    """With all weights of the head three times larger, motion changes the score more."""
    strong = jax.tree.map(lambda x: x, tiny_variables)
    strong["params"]["head"] = jax.tree.map(lambda x: 3.0 * x, strong["params"]["head"])
    found = explainer(strong, thinned(source, 2))
    assert abs(found.difference) > 0.02
    check_complete(found, 0.01)


def test_motion_is_explained_by_its_kinds(source):
    config = frame_by_frame()
    config.model.streams = "trajectory"
    config.model.trajectory.update(channels="xy+energy+range+tremor+asymmetry", input_scale=(1.0,), patch=2)
    found = Explainer(config)(models.init_variables(config.model, jax.random.key(1)), thinned(source, 1))
    assert found.converged
    assert found.trajectory.shape == (TIMES, 63, 16)
    assert found.by_moment.sum() == pytest.approx(found.difference, abs=0.01 * abs(found.difference))
    assert list(found.by_input) == [
        "positions of the landmarks",
        "how fast the landmarks move",
        "how far the landmarks move, moment by moment",
        "how far the landmarks move in the whole clip",
        "tremor of parts of the face, at 4 to 6 Hz",
        "differences between left and right",
    ]
    assert all(found.by_input.values())


def test_a_bent_line_is_explained_in_units_of_the_rating(source, monkeypatch):
    """The raw value of a linear model moves from 0 to 4 and passes every knot."""
    config = frame_by_frame()
    config.model.update(streams="trajectory")
    monkeypatch.setattr(attribution, "build_model", lambda config: Linear())
    knots = ((-0.5, 0.0), (0.4, 0.1), (1.9, 3.4), (3.2, 3.5), (3.5, 4.5))
    output = Output((0.0, 1.0, 2.0, 3.0, 4.0), (0.2,) * 5, sigma=1.0, low=0.0, high=4.0, people=300, knots=knots)
    explainer = Explainer(config, output)
    clip = thinned(source, 1)
    sample, baseline = explainer.ends(clip)
    change = (sample.trajectories - baseline.trajectories).reshape(-1, 1)
    kernel = 4 * change / np.square(change).sum()
    bias = -np.array([baseline.trajectories.ravel() @ kernel[:, 0]], np.float32)
    found = explainer({"params": {"Dense_0": {"kernel": kernel, "bias": bias}}}, clip)
    assert found.converged
    assert (found.baseline_score, found.score) == pytest.approx(output.score(np.array([0.0, 4.0])), abs=1e-4)
    effects = found.trajectory
    assert effects.sum() == pytest.approx(found.difference, rel=0.01)
    shares = np.square(change).reshape(-1, *effects.shape).sum(axis=0)  # the clip loops
    np.testing.assert_allclose(effects, shares / shares.sum() * effects.sum(), atol=1e-5)


@pytest.mark.slow
def test_a_trained_model_is_explained_as_well(tmp_path):
    """On whole clips of people that it was not trained on; of motion only, which takes seconds to learn."""
    config = frame_by_frame()
    config.model.streams = "trajectory"
    config.model.trajectory.update(channels="energy", patch=8, input_scale=(1.0,))
    config.train.update(epochs=10, evaluate_every=10)
    splits = datasets.split(datasets.open_dataset(config), config, None)
    trainer.fit(config, splits, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        shapes = models.abstract_variables(config.model)
        _, variables = checkpoints.restore_variables("last", shapes, sharding.data_mesh())
    explainer = Explainer(config)
    for index in range(2):
        found = explainer(variables, splits["test"][index])
        assert abs(found.difference) > 0.1  # there is something to explain
        check_complete(found, 0.01)


def test_attributions_of_models_that_read_other_inputs_have_a_mean():
    rng = np.random.default_rng(0)
    read = {attribution.LANDMARKS: np.array([False, True, True])}

    def made(score, channels, side):
        trajectory = rng.normal(size=(3, 63, len(channels))) if channels else None
        frames = rng.normal(size=(3, side, side)) if side else None
        names = landmarks.REGIONS + ((attribution.ELSEWHERE,) if side else ())
        effects = rng.normal(size=(3, len(names)))
        return Attribution(score, 1.0, trajectory, channels, frames, effects, names, read, 0.01, True, 6)

    one, other, third = made(2.0, ("x", "y"), 4), made(3.0, ("r", "x"), 6), made(4.0, (), 3)
    whole = attribution.mean([one, other, third])
    assert (whole.score, whole.baseline_score, whole.evaluations, whole.converged) == (3, 1, 18, True)
    assert whole.channels == ("x", "y", "r")
    np.testing.assert_allclose(whole.trajectory[:, :, 0], (one.trajectory[:, :, 0] + other.trajectory[:, :, 1]) / 3)
    frames = sum(each.frames.sum(axis=(1, 2)) for each in (one, other, third)) / 3
    np.testing.assert_allclose(whole.frames.sum(axis=(1, 2)), frames)
    assert whole.frames[0, 0, 0] == pytest.approx(
        (one.frames[0, 0, 0] / 9 + other.frames[0, 0, 0] / 4 + third.frames[0, 0, 0] / 16) / 3
    )
    np.testing.assert_array_equal(whole.read[attribution.LANDMARKS], [False, True, True])
    effects = sum(each.regions for each in (one, other, third)) / 3
    np.testing.assert_allclose(whole.regions, effects)
    motion_only = attribution.mean([made(1.0, ("x",), 0)])
    assert motion_only.frames is None
    assert motion_only.region_names == landmarks.REGIONS


@pytest.mark.slow
def test_a_fusion_of_tokens_is_explained_as_well(source):
    config = tiny.get_config().unlock()  # also with means of several frames
    config.model.fusion.tokens = "sequence"
    found = Explainer(config)(models.init_variables(config.model, jax.random.key(1)), thinned(source, 2))
    check_complete(found, 0.01)
    assert found.frames.any()


def test_a_small_budget_is_reported(explainer, source, tiny_variables):
    cheap = one_panel(explainer)
    cheap.tolerance = 1e-9
    found = cheap(tiny_variables, thinned(source, 0))
    assert found.evaluations == NODES
    assert not found.converged
    assert found.error > 2e-5


def test_a_still_clip_has_no_attribution_at_all(explainer, source, tiny_variables):
    clip = thinned(source, 3)
    n = len(clip.landmarks)
    still = dataclasses.replace(
        clip,
        landmarks=np.repeat(clip.landmarks[:1], n, axis=0),
        pixels=np.repeat(clip.pixels[:1], n, axis=0),
        frames=np.repeat(clip.frames[:1], n, axis=0),
    )
    found = explainer(tiny_variables, still)
    assert found.difference == pytest.approx(0, abs=1e-5)
    assert found.relative_error is None
    assert found.converged
    assert not found.regions.any()
    assert not found.trajectory.any()
    assert not found.frames.any()


@pytest.mark.parametrize("moment", [1, 9, TIMES - 1])
def test_the_only_moment_that_differs_gets_everything(explainer, source, tiny_variables, moment):
    """Although the clip is repeated four times to fill the trajectory."""
    clip = thinned(source, 1)
    points, frames = (np.repeat(x[:1], TIMES, axis=0) for x in (clip.landmarks, clip.frames))
    points[moment], frames[moment] = clip.landmarks[-1], clip.frames[-1]
    found = one_panel(explainer)(tiny_variables, as_clip(source, 1, points, frames))
    assert found.by_moment[moment] != 0
    assert np.count_nonzero(found.by_moment) == 1
    assert all(read.all() for read in found.read.values())


@pytest.mark.slow
def test_the_only_region_that_moves_has_the_largest_attribution(explainer, source, tiny_variables):
    """In 30 clips, each moving one group of landmarks. Lips belong to the mouth."""
    cheap, hits = one_panel(explainer), 0
    for index in range(30):
        group = index % 7
        found = cheap(tiny_variables, moving_in(source, index, landmarks.GROUPS[group])).by_region
        largest = max(found, key=lambda name: abs(found[name]))
        hits += largest == landmarks.REGIONS[landmarks.REGION_OF_GROUP[group]]
    assert hits >= 27, f"{hits} of 30"


def test_patches_belong_to_the_nearest_region(source):
    clip = thinned(source, 2)
    G = 32
    regions = patch_regions(clip, G)
    points = landmarks.select(clip.landmarks, clip.layout)
    for t in (0, TIMES - 1):
        for group in range(7):
            x, y = (points[t, group * 9 : group * 9 + 9].mean(axis=0) * G / 256).astype(int)
            assert regions[t, y, x] == landmarks.REGION_OF_GROUP[group]
    corner = np.hypot(*(points[0] - 4).T).min()
    assert corner > 0.3 * inter_ocular(points)
    assert np.all(regions[:, 0, 0] == 6)
    assert 0.2 < np.mean(regions == 6) < 0.9


def test_padding_by_zeros_is_not_motion(source, config):
    config.data.padding = "zero"
    sample, baseline = Explainer(config).ends(thinned(source, 4))
    np.testing.assert_array_equal(sample.trajectories[TIMES:], 0)
    np.testing.assert_array_equal(baseline.trajectories[TIMES:], 0)
    np.testing.assert_array_equal(baseline.trajectories[:TIMES], sample.trajectories[:1].repeat(TIMES, axis=0))
    assert sample.trajectories[5].any()


def test_a_classifier_is_refused(config):
    config.model.head.num_classes = 7
    with user_error("classifier", "model.head.num_classes", 7):
        Explainer(config)
