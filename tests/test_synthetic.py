"""Synthetic faces: reproducible, drawn where their landmarks are, and showing severity only in their motion."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

from benchmarks import contact_sheet
from tests.raises import user_error
from tramp_jax.data import clips, landmarks
from tramp_jax.synthetic import face, faces, motion
from tramp_jax.synthetic.faces import EXPRESSIONS, SyntheticFaces


@pytest.fixture(scope="module")
def rendered():
    return SyntheticFaces(num_subjects=5, clips_per_subject=1, seed=3)


@pytest.fixture(scope="module")
def moving():
    return SyntheticFaces(num_subjects=60, clips_per_subject=2, seed=1, with_frames=False)


def with_scores(source: SyntheticFaces, score: float) -> SyntheticFaces:
    """The same people, rooms, cameras and timing, all with one score."""
    source.infos = tuple(dataclasses.replace(info, score=score) for info in source.infos)
    return source


def upright(points: np.ndarray) -> np.ndarray:
    """Landmarks (n, 106, 2) -> complex (n, 106) with the outer eye corners at -0.5 and 0.5: free of head motion."""
    z = points[..., 0] + 1j * points[..., 1]
    left, right = z[:, 35:36], z[:, 93:94]
    return (z - (left + right) / 2) / (right - left)


def opening(points: np.ndarray) -> np.ndarray:
    """Eye opening (n,) in units of the distance between the outer eye corners."""
    z = upright(points.astype(float))
    return ((z[:, [33, 87]] - z[:, [40, 94]]).imag).mean(axis=1)


def signal(points: np.ndarray, expression: str) -> np.ndarray:
    """The measure (n,) that ``expression`` is meant to change."""
    z = upright(points.astype(float))
    if expression == "smile":
        return (z[:, 61] - z[:, 52]).real
    if expression == "clench_teeth":
        return (z[:, [60, 54, 57]] - z[:, [62, 66, 70]]).imag.mean(axis=1)
    if expression == "squeeze_eyes":  # the lids meet at any severity below 3; brows and nose go on approaching
        return (z[:, [78, 84]] - z[:, [46, 97]]).imag.mean(axis=1)
    return (z[:, 46] - z[:, 97]).real  # frown: the brows approach each other


def smooth(values: np.ndarray, width: int = 5) -> np.ndarray:
    return np.convolve(values, np.ones(width) / width, mode="valid")


def mean_by_score(source: SyntheticFaces, measure, expression: str) -> np.ndarray:
    chosen = [i for i, info in enumerate(source.infos) if info.expression == expression]
    scores = np.array([source.infos[i].score for i in chosen])
    values = np.array([measure(source[i].landmarks) for i in chosen])
    return np.array([values[scores == s].mean() for s in range(5)])


def held_out_rho(features: np.ndarray, source: SyntheticFaces, chosen: list[int], model) -> float:
    """Spearman's rho of predictions for subjects that the model was not fitted on."""
    scores = np.array([source.infos[i].score for i in chosen])
    subjects = [source.infos[i].subject for i in chosen]
    predicted = np.zeros(len(chosen))
    for train, test in GroupKFold(3).split(features, scores, subjects):
        predicted[test] = model.fit(features[train], scores[train]).predict(features[test])
    return spearmanr(predicted, scores).statistic


# --- the interface -------------------------------------------------------------------------------------------------


def test_clip_has_the_promised_shapes(rendered):
    for index in (0, 7, 13):
        clip = rendered[index]
        n = rendered.infos[index].num_frames
        assert clip.info is rendered.infos[index]
        assert clip.landmarks.shape == (n, 106, 2)
        assert clip.landmarks.dtype == np.float32
        assert clip.pixels.shape == (n, 63, 3)
        assert clip.pixels.dtype == np.uint8
        assert len(clip.frames) == n
        assert clips.decode_frame(clip.frames[0]).shape == (256, 256, 3)
        inside = (clip.landmarks > 4) & (clip.landmarks < 252)
        assert inside.all()
    assert rendered.infos[6].id == "synthetic-s001-smile-0"
    assert rendered.infos[6].subject == "s001"


def test_landmarks_only_skips_frames_and_keeps_the_points(rendered):
    bare = SyntheticFaces(5, 1, seed=3, with_frames=False)[8]
    assert bare.frames is None
    assert bare.pixels is None
    np.testing.assert_array_equal(bare.landmarks, rendered[8].landmarks)


def test_pixels_are_the_colours_of_the_frames(rendered):
    clip = rendered[4]
    chosen = landmarks.select(clip.landmarks, clip.layout)
    read = np.stack(
        [landmarks.pixel_values(clips.decode_frame(f), p) for f, p in zip(clip.frames, chosen, strict=True)]
    )
    assert np.abs(read.astype(int) - clip.pixels).mean() < 4  # JPEG and nothing else


def test_a_clip_depends_on_seed_and_place_alone(rendered):
    again = SyntheticFaces(6, 2, expressions=("frown", "smile"), seed=3)
    wanted = {info.id: i for i, info in enumerate(rendered.infos)}
    both = [i for i, info in enumerate(again.infos) if info.id in wanted]
    for i in both[:7:-3]:
        one, other = again[i], rendered[wanted[again.infos[i].id]]
        assert one.info == other.info
        assert one.frames == other.frames
        np.testing.assert_array_equal(one.landmarks, other.landmarks)
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert SyntheticFaces(5, 1, seed=4)[0].frames[0] != rendered[0].frames[0]


def test_cache_returns_the_same_record(rendered):
    assert rendered[2] is rendered[2]
    assert rendered[-1] is rendered[len(rendered) - 1]
    with pytest.raises(IndexError):
        rendered[len(rendered)]


def test_wrong_arguments_are_refused():
    with user_error("bad_option", "yawn", "smile"):
        SyntheticFaces(2, 1, expressions=("yawn",))
    with user_error("bad_value"):
        SyntheticFaces(0, 1)


# --- the faces -----------------------------------------------------------------------------------------------------


def test_every_landmark_is_modelled_once_and_mirrored():
    midline = [point for point, mirrored in enumerate(landmarks.MIRROR_106) if point == mirrored]
    known = np.concatenate([face.LEFT, face.RIGHT, midline])
    assert sorted(known) == list(range(face.NUM_POINTS))
    neutral = face.draw_neutral(np.random.default_rng(0))
    assert np.abs(neutral[face.LEFT] * (-1, 1, 1) - neutral[face.RIGHT])[:, :2].max() < 6  # natural asymmetry
    assert np.all(neutral[face.LEFT, 0] <= 0)
    table = landmarks.select(neutral[None, :106, :2], "insightface106")[0]
    mirrored = table[landmarks.MIRROR] * (-1, 1)
    assert np.abs(mirrored - table).max() < 6


def colour(frame: np.ndarray, *points: np.ndarray) -> np.ndarray:
    """Mean colour of the 3 × 3 pixels around the mean of ``points``."""
    x, y = np.mean(points, axis=0).astype(int)
    return frame[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0)


def check_features(frame: np.ndarray, p: np.ndarray) -> None:
    """Points ``p`` (106, 2) lie on what is drawn there, as far as colours show it."""
    skin = colour(frame, p[74], p[72])
    redness = skin[0] / (skin[1] + skin[2])
    for upper, lower in ((49, 45), (51, 47), (104, 99), (103, 98)):
        assert np.abs(colour(frame, p[upper], p[lower]) - skin).sum() > 45, "brow"
    for outer, inner in ((53, 60), (56, 54), (59, 57), (71, 62)):
        lip = colour(frame, p[outer], p[inner])
        assert lip[0] / (lip[1] + lip[2]) > 1.08 * redness, "lip"
    for pupil, outer, inner in ((38, 35, 39), (92, 93, 89)):
        assert colour(frame, p[pupil]).sum() < 0.6 * skin.sum(), "pupil"
        white = max(colour(frame, p[pupil], p[corner]).max() for corner in (outer, inner))
        assert white > colour(frame, p[pupil]).max() + 40, "white of the eye"
    for contour, other in ((4, 20), (15, 31)):
        across = (p[contour] - p[other]) / np.linalg.norm(p[contour] - p[other])
        for edge, out in ((p[contour], across), (p[other], -across)):
            jump = colour(frame, edge + 5 * out) - colour(frame, edge - 5 * out)
            assert np.abs(jump).sum() > 20, "contour"


def test_features_are_drawn_under_their_landmarks(rendered):
    for index in range(0, len(rendered), 5):
        frame = rendered.painter(index).paint(0)
        points = rendered.scene(index)[1][0, :106]
        check_features(frame, points)
        for shift in ((9, 0), (-9, 0), (0, 9), (0, -9)):
            with pytest.raises(AssertionError):
                check_features(frame, points + shift)


def test_teeth_show_between_the_lips_of_a_clench(rendered):
    source = with_scores(SyntheticFaces(2, 1, ("clench_teeth",), seed=5), 0.0)
    for index in range(2):
        points = source.scene(index)[1][:, :106]
        t = int(np.argmax(points[:, 60, 1] - points[:, 62, 1]))
        teeth = colour(source.painter(index).paint(t), points[t, 62], points[t, 60])
        lip = colour(source.painter(index).paint(0), points[0, 53], points[0, 60])
        assert teeth[1] + teeth[2] > lip[1] + lip[2] + 60


def test_subjects_look_different(rendered):
    first = [5 * k for k in range(5)]
    shapes = np.stack([upright(rendered.scene(i)[1][:1, :106])[0] for i in first])
    frames = [rendered.painter(i).paint(0).astype(float) for i in first]
    same = upright(rendered.scene(1)[1][:1, :106])[0]  # subject 0 again, in another pose
    for i in range(5):
        for j in range(i):
            assert np.abs(shapes[i] - shapes[j]).mean() > 0.01  # about a pixel
            assert np.abs(frames[i] - frames[j]).mean() > 15
    assert np.abs(shapes[0] - same).mean() < np.abs(shapes[0] - shapes[1:]).mean()


def test_contact_sheet_has_a_row_for_each_expression(tmp_path):
    contact_sheet.main([str(tmp_path / "sheet.jpg")])
    sheet = clips.decode_frame((tmp_path / "sheet.jpg").read_bytes())
    assert sheet.shape == (len(EXPRESSIONS) * (112 + 18), 2 * 5 * 112 + 8, 3)


# --- scores --------------------------------------------------------------------------------------------------------


def test_scores_are_balanced_and_vary_by_a_step_at_most():
    source = SyntheticFaces(100, 3)
    for expression in EXPRESSIONS:
        infos = [info for info in source.infos if info.expression == expression]
        scores = np.array([info.score for info in infos]).reshape(100, 3)
        assert np.array_equal(np.bincount(scores[:, 0].astype(int)), [20] * 5)
        assert np.all(np.sort(scores[:5, 0]) == np.arange(5))
        assert np.ptp(scores, axis=1).max() == 1
        assert np.bincount(scores.ravel().astype(int), minlength=5).min() > 40
    assert (
        np.abs(np.corrcoef(np.reshape([i.score for i in source.infos], (100, 5, 3))[..., 0].T) - np.eye(5)).max() < 0.3
    )


def test_length_says_nothing_about_the_score():
    source = SyntheticFaces(100, 2)
    lengths = np.array([info.num_frames for info in source.infos])
    scores = np.array([info.score for info in source.infos])
    assert lengths.min() == faces.MIN_FRAMES
    assert lengths.max() == faces.MAX_FRAMES
    assert abs(spearmanr(lengths, scores).statistic) < 3 / np.sqrt(len(lengths))
    assert all(source.infos[i].num_frames == with_scores(source, 4.0).infos[i].num_frames for i in range(10))


# --- severity is in the motion -------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_frames_before_the_motion_do_not_depend_on_the_severity(expression):
    healthy = with_scores(SyntheticFaces(2, 1, (expression,), seed=9), 0.0)
    ill = with_scores(SyntheticFaces(2, 1, (expression,), seed=9), 4.0)
    still = int(0.3 * motion.FPS)
    for index in range(2):
        one, other = healthy.scene(index)[1], ill.scene(index)[1]
        assert np.array_equal(one[0], other[0])
        np.testing.assert_allclose(one[:still], other[:still], atol=1e-6)
        assert np.abs(one - other).max() > 1
    assert healthy[0].frames[:still] == ill[0].frames[:still]
    assert healthy[0].frames != ill[0].frames
    np.testing.assert_array_equal(healthy[0].landmarks[0], ill[0].landmarks[0])
    np.testing.assert_array_equal(healthy.motion(0).pose, ill.motion(0).pose)
    np.testing.assert_array_equal(healthy.motion(0).gaze, ill.motion(0).gaze)


def test_first_frame_does_not_predict_the_score():
    source = SyntheticFaces(60, 1, seed=7)
    features = []
    for index in range(len(source)):
        scene = source.scene(index)
        points = scene[1][0, :106]
        frame = source.painter(index, scene).paint(0)
        pixels = landmarks.pixel_values(frame, landmarks.select(points[None], "insightface106")[0])
        features.append(np.concatenate([(points - points.mean(axis=0)).ravel(), pixels.ravel()]))
    chance = 3 / np.sqrt(len(source))
    everything = np.array(features)
    everything = (everything - everything.mean(axis=0)) / (everything.std(axis=0) + 1e-6)
    for model in (RidgeCV(np.logspace(0, 5, 11)), RandomForestRegressor(40, max_features=0.05, random_state=0)):
        rho = held_out_rho(everything, source, list(range(len(source))), model)
        assert abs(rho) < chance, f"{type(model).__name__} finds severity in the first frame: {rho:.2f}"


@pytest.mark.parametrize("expression", EXPRESSIONS[1:])
def test_severity_shrinks_and_slows_the_motion(moving, expression):
    def reach(points: np.ndarray) -> float:
        values, n = signal(points, expression), len(points)
        return abs(np.median(values[int(0.45 * n) : int(0.75 * n)]) - np.median(values[:8]))

    def speed(points: np.ndarray) -> float:
        return float(np.abs(np.diff(smooth(signal(points, expression)))).max())

    reaches = mean_by_score(moving, reach, expression)
    assert np.all(np.diff(reaches) < 0), reaches
    assert reaches[4] < 0.5 * reaches[0]
    speeds = mean_by_score(moving, speed, expression)
    assert np.all(np.diff(speeds[:4]) < 0), speeds  # at 4 a blink can be the fastest thing left
    assert speeds[4] < 0.5 * speeds[0]


def test_severity_delays_the_onset_and_slows_the_rise():
    source = SyntheticFaces(10, 1, ("smile",), seed=8, with_frames=False)
    onsets, rises = [], []
    for score in range(5):
        pulls = [with_scores(source, float(score)).motion(i).strength("corner_pull").sum(axis=1) for i in range(10)]
        starts = [np.argmax(pull > 0) for pull in pulls]
        onsets.append(np.mean(starts))
        rises.append(
            np.mean([np.argmax(pull > 0.5 * pull.max()) - start for pull, start in zip(pulls, starts, strict=True)])
        )
    assert np.all(np.diff(onsets) > 0), onsets
    assert np.all(np.diff(rises) > 0), rises


def test_a_face_at_rest_moves_and_blinks_less():
    source = SyntheticFaces(100, 3, ("sit_at_rest",), seed=2, with_frames=False)

    def blinks(points: np.ndarray) -> float:
        shut = opening(points) < 0.5 * np.median(opening(points))
        return np.count_nonzero(np.diff(shut.astype(int)) == 1) / (len(points) / motion.FPS)

    def mouth_and_brows(points: np.ndarray) -> float:
        z = upright(points.astype(float))
        return float(np.std([smooth((z[:, k] - z[:, 86]).imag, 9) for k in (49, 104)], axis=1).mean())

    rates = mean_by_score(source, blinks, "sit_at_rest")
    assert np.all(np.diff(rates) < 0), rates
    assert rates[0] > 0.4 > 0.2 > rates[4]
    movement = mean_by_score(source, mouth_and_brows, "sit_at_rest")
    assert np.all(np.diff(movement) < 0), movement


def test_severity_adds_tremor_and_imbalance():
    source = SyntheticFaces(20, 1, ("smile",), seed=6, with_frames=False)
    shaking, lopsided = [], []
    band = slice(int(4 / motion.FPS * 128), int(6 / motion.FPS * 128) + 2)
    for score in range(5):
        scenes = [with_scores(source, float(score)).scene(i) for i in range(len(source))]
        jaws = [(z[:, 0] - z[:, 86]).imag for z in (upright(points) for _, points in scenes)]
        shaking.append(np.mean([(np.abs(np.fft.rfft(np.diff(jaw, 2), 128)) ** 2)[band].sum() for jaw in jaws]))
        pulls = [movement.strength("corner_pull").max(axis=0) for movement, _ in scenes]
        lopsided.append(np.mean([abs(np.log(left / right)) for left, right in pulls]))
    assert np.all(np.diff(shaking) > 0), shaking
    assert np.all(np.diff(lopsided) > 0), lopsided


def test_motion_predicts_the_score_of_unseen_subjects(moving):
    points = (40, 33, 94, 87, 46, 97, 49, 104, 52, 61, 62, 60, 53, 0, 77, 83)

    def features(clip: clips.Clip) -> np.ndarray:
        z = upright(clip.landmarks.astype(float))[:, points]
        path = np.concatenate([z.real, z.imag], axis=1) - np.concatenate([z.real, z.imag], axis=1)[:1]
        step = np.diff(path, axis=0)
        parts = (np.ptp(path, axis=0), path.std(axis=0), np.abs(step).max(axis=0), np.diff(step, axis=0).std(axis=0))
        return np.concatenate(parts)

    rhos = {}
    for expression in EXPRESSIONS:
        chosen = [i for i, info in enumerate(moving.infos) if info.expression == expression]
        model = RandomForestRegressor(60, max_features=0.3, random_state=0)
        rhos[expression] = held_out_rho(np.array([features(moving[i]) for i in chosen]), moving, chosen, model)
    assert np.mean(list(rhos.values())) > 0.88, rhos
    assert min(rhos.values()) > 0.8, rhos
