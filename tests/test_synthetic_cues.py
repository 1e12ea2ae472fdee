"""Drawn faces that show severity through named cues: each shows it where it should, and nowhere else."""

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import GroupKFold

from tests.raises import user_error
from tests.test_synthetic import with_scores
from tramp_jax.data import landmarks
from tramp_jax.data.readers import synthetic
from tramp_jax.data.source import Wanted
from tramp_jax.synthetic import face
from tramp_jax.synthetic.faces import CUES, EXPRESSIONS, NUM_SCORES, SyntheticFaces
from tramp_jax.synthetic.skin import SIGNS

PEOPLE = 60
CHANCE = 3 / np.sqrt(PEOPLE)
# Places (x, y) on an upright face at rest, relative to the point between the eyes, and the sides of their patches.
PATCHES = {"cheek": (43, 28), "under_cheek": (47, 48), "nasolabial": (33, 58), "forehead": (24, -41), "temple": (58, 0)}
SIDE = 12


def _source(cues, people=PEOPLE, **options):
    return SyntheticFaces(people, 1, ("smile",), seed=11, cues=cues, **options)


def _motion(source, index):
    """How far the detected landmarks move, without head motion: (63,) root mean square and largest step."""
    clip = source[index]
    points = landmarks.select(clip.landmarks, clip.layout).astype(float)
    z = points[..., 0] + 1j * points[..., 1]
    corners = [landmarks.SLOT_NAMES.index(name) for name in ("left_eye_right_corner", "right_eye_left_corner")]
    still = z[:, corners]
    z = (z - still.mean(axis=1, keepdims=True)) / np.abs(still[:, :1] - still[:, 1:]).mean()
    smooth = np.apply_along_axis(lambda x: np.convolve(x, np.ones(5) / 5, "valid"), 0, z)
    return np.concatenate([np.abs(smooth - smooth.mean(axis=0)).std(axis=0), np.abs(np.diff(smooth, axis=0)).max(0)])


def _shading(source, index, times=(0.0, 0.5, 0.65)):
    """Grey level of each patch of skin at later ``times``, relative to the first and to the middle of the forehead."""
    movement, points = source.scene(index)
    painter = source.painter(index, (movement, points))
    linear, offset = face.affine(movement.pose)
    rows = []
    for share in times:
        t = int(share * (len(points) - 1))
        frame = cv2.cvtColor(painter.paint(t), cv2.COLOR_RGB2GRAY).astype(float)
        values = []
        for x, y in [*((side * x, y) for x, y in PATCHES.values() for side in (-1, 1)), (0, -40)]:
            u, v = (linear[t] @ (x, y, 45) + offset[t]).astype(int)
            values.append(np.log(frame[v - SIDE // 2 : v + SIDE // 2, u - SIDE // 2 : u + SIDE // 2].mean()))
        rows.append(np.array(values[:-1]) - values[-1])
    return np.concatenate([row - rows[0] for row in rows[1:]])


def _rho(features, source):
    """Spearman's ρ of predictions for people that a forest was not fitted on."""
    scores = np.array([info.score for info in source.infos])
    predicted = np.zeros(len(scores))
    for train, test in GroupKFold(4).split(features, scores, range(len(scores))):
        forest = RandomForestRegressor(100, max_features=0.3, min_samples_leaf=2, random_state=0)
        predicted[test] = forest.fit(features[train], scores[train]).predict(features[test])
    return spearmanr(predicted, scores).statistic


@pytest.mark.parametrize(
    ("cues", "moves", "shades"), [("landmarks", True, False), ("appearance", False, True), ("both", True, True)]
)
def test_severity_is_where_the_cues_are_and_nowhere_else(cues, moves, shades):
    bare, drawn = _source(cues, with_frames=False), _source(cues)
    motion = _rho(np.array([_motion(bare, i) for i in range(PEOPLE)]), bare)
    shading = _rho(np.array([_shading(drawn, i) for i in range(PEOPLE)]), drawn)
    assert (motion > 0.7) if moves else (abs(motion) < CHANCE), f"motion of landmarks: {motion:.2f}"
    assert (shading > 0.7) if shades else (abs(shading) < CHANCE), f"shading of the skin: {shading:.2f}"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_severity_changes_only_what_its_cues_change(expression):
    """The same clips at severity 0 and 4."""
    for cues in CUES[1:3]:
        healthy, ill = (
            with_scores(SyntheticFaces(2, 1, (expression,), seed=9, with_frames=False, cues=cues), score)
            for score in (0.0, NUM_SCORES - 1.0)
        )
        for index in range(2):
            moved = np.abs(healthy[index].landmarks - ill[index].landmarks).max()
            skins = healthy.skin(index), ill.skin(index)
            np.testing.assert_array_equal(skins[0].points, skins[1].points)
            faded = skins[0].strengths - skins[1].strengths
            if cues == "appearance":
                assert moved == 0
                assert faded.max() > 0.5
                assert faded.min() >= 0
            else:
                assert moved > 1
                assert not faded.any()
            painters = healthy.painter(index), ill.painter(index)
            for time, same in ((0, True), (healthy.infos[index].num_frames - 20, False)):
                assert np.array_equal(*(painter.paint(time) for painter in painters)) == same


def test_signs_fade_with_severity_and_show_at_96_pixels():
    steps = []
    for score in range(NUM_SCORES):
        source = with_scores(_source("appearance", 4), float(score))
        rows = []
        for index in range(4):
            painter, n = source.painter(index), source.infos[index].num_frames
            image = painter.paint(int(0.6 * n))
            rows.append(cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA).astype(float))
        steps.append(np.array(rows))
    away = [np.abs(step - steps[-1]).max(axis=-1) for step in steps]
    assert np.all(np.diff([image.mean() for image in away]) < 0)
    assert np.mean(away[0] > 12) > 0.02  # of the pixels, 12 grey levels or more
    strengths = np.array(
        [with_scores(_source("both", 20), float(s)).skin(3).strengths.max(axis=0) for s in range(NUM_SCORES)]
    )
    assert strengths.shape == (NUM_SCORES, len(SIGNS))
    assert np.all(np.diff(strengths, axis=0) < 0)


@pytest.mark.parametrize("size", [0.5, 1.0])
def test_the_two_kinds_of_cues_have_independent_noise(size):
    source = _source("both", 200, with_frames=False, cue_noise=size)
    scores = np.array([info.score for info in source.infos])
    kinds = "landmarks", "appearance"
    noise = [np.array([source.severity(i, kind) for i in range(len(scores))]) - scores for kind in kinds]
    assert all(0.8 * size < each.std() < 1.1 * size for each in noise)
    assert abs(np.corrcoef(noise)[0, 1]) < 0.2
    assert all(abs(spearmanr(each, scores).statistic) < 0.2 for each in noise)


def test_the_first_frame_and_the_face_at_rest_predict_nothing():
    source = _source("both")
    features = []
    for index in range(PEOPLE):
        scene = source.scene(index)
        frame = cv2.resize(source.painter(index, scene).paint(0), (16, 16), interpolation=cv2.INTER_AREA)
        points = scene[1][0, : face.NUM_LANDMARKS]
        features.append(np.concatenate([(points - points.mean(axis=0)).ravel(), frame.ravel()]))
        assert not source.skin(index).strengths[0].any()
    assert abs(_rho(np.array(features), source)) < CHANCE


def test_the_option_reaches_the_faces_and_is_checked():
    options = synthetic.Options(num_subjects=2, expressions=("smile",))
    assert options.cues == "motion"
    clips = {}
    for cues in CUES:
        chosen = synthetic.Options(num_subjects=2, expressions=("smile",), cues=cues)
        clips[cues] = synthetic.open("", chosen, Wanted(frames=False, pixels=False), None).source[0]
    assert len({clip.landmarks.tobytes() for clip in clips.values()}) > 1
    with user_error("bad_option", "data.cues", "wrinkles", *CUES):
        SyntheticFaces(2, 1, cues="wrinkles")
    for noise in (-0.1, np.nan, np.inf):
        with user_error("bad_option", "data.cue_noise", str(noise)):
            SyntheticFaces(2, 1, cues="both", cue_noise=noise)
