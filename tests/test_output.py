"""The output step: scores stay on the scale and keep their order, the line is honest, and the files are checked."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.raises import user_error
from tramp_jax import experiment, metrics, run, training_data
from tramp_jax import output as outputs
from tramp_jax.data.source import Facts, RatingScale, Split
from tramp_jax.synthetic.faces import SyntheticFaces

MDS = RatingScale()
RATINGS = ((0.0, 34), (1.0, 24), (2.0, 32), (3.0, 35), (4.0, 29))


def people_of(clips):
    return [f"p{i // 2}" for i in range(clips)]


def test_the_score_is_the_expected_rating(config):
    found = outputs.of_training(config, RATINGS, MDS)
    raw, shares = 1.3, np.array([count for _, count in RATINGS]) / 154
    weights = shares * np.exp(-((raw - np.arange(5)) ** 2) / 2)
    assert found.score(raw) == pytest.approx(np.sum(np.arange(5) * weights) / weights.sum())
    variance = np.sum((np.arange(5) - found.score(raw)) ** 2 * weights) / weights.sum()
    assert found.spread(raw) == pytest.approx(np.sqrt(variance))


@pytest.mark.parametrize("decode", ["training", "balanced"])
def test_decoding_stays_on_the_scale_and_keeps_every_rank(config, decode):
    config.output.decode = decode
    raw = np.random.default_rng(0).normal(2, 4, 500)
    scores = outputs.of_training(config, RATINGS, MDS).score(raw)
    assert 0 < scores.min() < scores.max() < 4
    assert spearmanr(raw, scores)[0] == pytest.approx(1, abs=1e-9)
    in_jax = outputs.of_training(config, RATINGS, MDS).score(jnp.array(raw, jnp.float32), jnp)
    np.testing.assert_allclose(in_jax, scores, atol=1e-5)


def test_balanced_decoding_does_not_know_how_often_ratings_occur(config):
    rare = ((0.0, 1), (4.0, 99))
    config.output.decode = "balanced"
    balanced = outputs.of_training(config, rare, MDS).score(2.0)
    config.output.decode = "training"
    by_training = outputs.of_training(config, rare, MDS).score(2.0)
    assert balanced == pytest.approx(2.0)
    assert by_training > 3.9


def test_mse_and_a_single_rating_are_limited_to_the_scale(config):
    assert outputs.of_training(config, ((2.0, 9),), MDS).score(np.array([-3.0, 1.5, 9.0])).tolist() == [0, 1.5, 4]
    config.loss.name = "mse"
    assert outputs.of_training(config, RATINGS, MDS).ratings == ()


def test_the_line_makes_the_error_smaller_and_keeps_the_order(config):
    rng = np.random.default_rng(1)
    target = rng.integers(0, 5, 400).astype(float)
    raw = 2.5 * target - 7 + rng.normal(size=400)
    found = outputs.of_training(config, RATINGS, MDS)
    fitted = found.fitted(raw[:200], target[:200], people_of(200))
    before, after = (metrics.mae(each.score(raw[200:]), target[200:]) for each in (found, fitted))
    assert after < 0.5 < before
    assert fitted.people == 100
    assert fitted.slope > 0
    assert spearmanr(raw, fitted.score(raw))[0] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("fit", ["line", "isotonic"])
def test_a_person_with_many_clips_counts_once(config, fit):
    target = np.random.default_rng(1).integers(0, 5, 40).astype(float)
    raw, people = 2 * target - 3, np.arange(40)
    raw[0] = 8 - raw[0]  # unlike the others
    often = np.repeat(people, np.where(people == 0, 100, 1))
    found = outputs.of_training(config, RATINGS, MDS)
    once, weighted, unweighted = (
        found.fitted(raw[rows], target[rows], subjects, fit).score(raw)
        for rows, subjects in ((people, people), (often, often), (often, range(len(often))))
    )
    np.testing.assert_allclose(weighted, once, atol=0.01)
    assert np.abs(unweighted - once).max() > 0.5


def test_test_ratings_do_not_set_the_scale(config, capsys):
    clips = SyntheticFaces(9, 1, ("smile",))
    ratings = {"train": (1.0, 2.0, 2.5), "validation": (1.5, 3.0, 2.0), "test": (0.0, 2.0, 4.0)}
    splits = {}
    for number, (name, given) in enumerate(ratings.items()):
        rows = range(3 * number, 3 * number + 3)
        infos = [dataclasses.replace(clips.infos[i], score=score) for i, score in zip(rows, given, strict=True)]
        splits[name] = Split(clips, rows, infos)
    for facts, ends in ((Facts(), (1, 3)), (Facts(MDS), (0, 4))):
        data, decoding = training_data.describe(splits, facts), experiment.decoding(config, splits, facts)
        assert (data.scale.low, data.scale.high) == (decoding.low, decoding.high) == ends
    low, high = (dataclasses.replace(data, scale=RatingScale("score", *ends)) for ends in ((0, 2), (1, 3)))
    joint = training_data.joint_scale([low, high])
    assert (joint.name, joint.low, joint.high) == ("score", 0, 3)
    experiment._warn_beyond(data, splits, "train")
    assert not capsys.readouterr().out
    experiment._warn_beyond(data, splits, "test")
    said = capsys.readouterr().out
    assert "2 of 3" in said
    assert "data.scale" in said


@pytest.mark.parametrize("raw", [np.zeros(40), -np.arange(40.0), np.arange(40.0) * 1e4])
def test_a_hopeless_model_still_gets_scores_on_the_scale(config, raw):
    target = np.repeat([0.0, 1.0, 2.0, 4.0], 10)
    fitted = outputs.of_training(config, RATINGS, MDS).fitted(raw, target, people_of(40))
    scores = fitted.score(raw)
    assert np.isfinite(scores).all()
    assert 0 <= scores.min() <= scores.max() <= 4


def test_few_people_fit_no_line(config):
    found = outputs.of_training(config, RATINGS, MDS)
    raw, target = np.arange(40.0), np.arange(40.0) / 10
    assert found.fitted(raw, target, people_of(18)) == found  # nine people
    assert "10 validation people" in str(found)


def stepped(clips, seed=1):
    """Raw values with a relation to the ratings that no line describes, and the ratings."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 5, clips).astype(float)
    seen = target + rng.normal(0, 0.6, clips)
    return 5 * (np.tanh(3 * (seen - 1)) + np.tanh(3 * (seen - 3))) + 0.5 * seen, target


@pytest.mark.parametrize("decode", ["training", "clip"])
def test_a_bent_line_makes_the_error_smaller_and_keeps_the_order(config, decode):
    config.output.decode = decode
    raw, target = stepped(800)
    found = outputs.of_training(config, RATINGS, MDS)
    line, bent = (found.fitted(raw[:400], target[:400], people_of(400), fit) for fit in ("line", "isotonic"))
    assert (line.fit, bent.fit) == ("line", "isotonic")
    assert (line.slope, line.offset) == (bent.slope, bent.offset)
    straight, other = (metrics.mae(each.score(raw[400:]), target[400:]) for each in (line, bent))
    assert other < 0.95 * straight
    wide = np.linspace(raw.min() - 2, raw.max() + 2, 2000)
    scores = bent.score(wide)
    assert 0 <= scores.min() < scores.max() <= 4
    assert (np.diff(scores) >= 0).all()
    if decode == "training":
        assert (np.diff(scores) > 0).all()
        assert spearmanr(raw, bent.score(raw))[0] == pytest.approx(1, abs=1e-9)
    assert (bent.spread(wide) > 0).all()


def test_a_bent_line_passes_near_the_mean_ratings(config):
    """At each knot, 19 parts of the score are the mean rating of the block, and one is the score by the line."""
    raw, target = np.repeat([-3.0, 0.0, 1.0, 5.0], 40), np.tile([0.0, 1.0], 80)
    target[40:80], target[80:120], target[120:] = 2, 1.5, 4  # the second and third go down, so they form one block
    found = outputs.of_training(config, RATINGS, MDS)
    line, bent = (found.fitted(raw, target, people_of(160), fit) for fit in ("line", "isotonic"))
    at = np.array([-3.0, 0.5, 5.0])
    expected = 0.95 * np.array([0.5, 1.75, 4.0]) + 0.05 * line.score(at)
    np.testing.assert_allclose(bent.score(at), expected, atol=1e-9)
    assert len(bent.knots) == 3
    before, after = np.array(bent.knots).T
    wide = np.linspace(-3, 5, 50)
    x = np.interp(line.slope * wide + line.offset, before, after)
    np.testing.assert_allclose(bent.score(wide), found.score(x), atol=1e-9)


def test_the_line_bends_only_for_many_people(config):
    raw, target = stepped(2 * outputs.MANY_PEOPLE)
    found = outputs.of_training(config, RATINGS, MDS)
    many, few = people_of(len(raw)), people_of(len(raw) - 2)
    assert found.fitted(raw, target, many).fit == "isotonic"
    assert "bent at" in str(found.fitted(raw, target, many))
    assert found.fitted(raw[2:], target[2:], few).fit == "line"
    assert found.fitted(raw, target, many, "line").fit == "line"
    assert found.fitted(raw, target, many, "none") == found
    assert found.fitted(raw[:18], target[:18], many[:18], "isotonic") == found  # nine people


def test_a_bent_line_is_the_same_in_jax_with_its_gradient(config):
    raw, target = stepped(400)
    bent = outputs.of_training(config, RATINGS, MDS).fitted(raw, target, people_of(400), "isotonic")
    some = raw[:20]
    scores, pull_back = jax.jit(lambda x: jax.vjp(lambda raw: bent.score(raw, jnp), x))(jnp.array(some, jnp.float32))
    np.testing.assert_allclose(scores, bent.score(some), atol=1e-5)
    (slopes,) = pull_back(jnp.ones_like(scores))
    expected = (bent.score(some + 1e-6) - bent.score(some - 1e-6)) / 2e-6
    np.testing.assert_allclose(slopes, expected, rtol=1e-3, atol=1e-4)


def test_a_bent_line_is_the_same_in_jax_if_ratings_are_far_apart(config):
    rng = np.random.default_rng(0)
    target = rng.choice([10.0, 30.0, 50.0], 200)
    raw, found = target + rng.normal(0, 3, 200), outputs.of_training(config, ((10.0, 1), (30.0, 1), (50.0, 1)), MDS)
    bent = found.fitted(raw, target, people_of(200), "isotonic")
    assert bent.knots
    apart = raw[np.min(np.abs(raw[:, None] - (20, 40)), axis=1) > 1]  # between, scores leap from one rating to the next
    np.testing.assert_allclose(bent.score(jnp.array(apart, jnp.float32), jnp), bent.score(apart), atol=1e-3)


@pytest.mark.parametrize("fit", ["line", "isotonic"])
def test_held_out_scores_never_see_their_own_person(config, fit):
    rng = np.random.default_rng(2)
    target = rng.integers(0, 5, 60).astype(float)
    raw, subjects = 1.5 * target + rng.normal(size=60), people_of(60)
    found = outputs.of_training(config, RATINGS, MDS).fitted(raw, target, subjects, fit)
    scores, spreads = outputs.held_out(found, raw, target, subjects)
    changed = target.copy()
    changed[:2] = 4 - changed[:2]  # the ratings of the first person
    again, _ = outputs.held_out(found, raw, changed, subjects)
    np.testing.assert_array_equal(scores[:2], again[:2])
    assert not np.array_equal(scores, again)
    assert (spreads > 0).all()


def test_the_fewest_people_with_a_line_are_scored_with_a_line(config):
    """Without one person, they are fewer than a line takes."""
    target = np.tile(np.arange(5.0), 2)
    raw, subjects = 3 * target - 4, [f"p{i}" for i in range(outputs.FEW_PEOPLE)]
    fitted = outputs.of_training(config, RATINGS, MDS).fitted(raw, target, subjects)
    scores, _ = outputs.held_out(fitted, raw, target, subjects)
    np.testing.assert_allclose(scores, fitted.score(raw), atol=0.1)


def test_an_output_is_saved_with_its_checkpoint_and_damage_is_named(config, tmp_path):
    raw, target = stepped(60)
    decoding = outputs.of_training(config, RATINGS, MDS)
    assert outputs.load(tmp_path, 7) is None
    for fit in ("none", "isotonic", "line"):
        found = decoding.fitted(raw, target, people_of(60), fit)
        found.save(tmp_path, 7)
        assert outputs.load(tmp_path, 7) == found
    path = run.output_file(tmp_path, 7)
    good = json.loads(path.read_text())
    assert "knots" not in good  # as in files from before lines could bend
    broken = (
        {"slope": float("nan")},
        {"slope": -1},
        {"shares": [1]},
        {"ratings": "abc"},
        {"extra": 1},
        {"sigma": None},
        {"knots": [[0, 1]]},
        {"knots": [[0, 1], [0, 2]]},
        {"knots": [[0, 1], [1, 0.5]]},
        {"knots": [[0, 1], [1, None]]},
    )
    for change in broken:
        path.write_text(json.dumps(good | change))
        with user_error("damaged_file", path):
            outputs.load(tmp_path, 7)
    for text in ("", "[]", "{"):
        path.write_text(text)
        with user_error("damaged_file", path):
            outputs.load(tmp_path, 7)
