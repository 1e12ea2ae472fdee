"""Metrics against their definitions and properties."""

import numpy as np
import pytest
from scipy import stats

from tests.raises import user_error
from tramp_jax import agreement, evaluation, metrics, run, training_log
from tramp_jax.data.clips import ClipInfo
from tramp_jax.output import Output

RNG = np.random.default_rng(0)
TARGET = RNG.integers(0, 5, 60).astype(float)
SCORE = TARGET + RNG.normal(size=60)
SUBJECTS = [f"s{i // 3}" for i in range(60)]


def test_scores_that_are_not_numbers_have_no_ranks():
    score, target = np.array([0.1, np.nan, 0.3, 0.2]), np.array([0.0, 1.0, 2.0, 0.0])
    assert np.isnan(metrics.spearman(score, target))
    assert np.isnan(metrics.auroc(score, target))


def test_rank_and_linear_correlation_agree_with_scipy():
    assert metrics.spearman(SCORE, TARGET) == pytest.approx(stats.spearmanr(SCORE, TARGET).statistic)
    assert metrics.pearson(SCORE, TARGET) == pytest.approx(stats.pearsonr(SCORE, TARGET).statistic)


def test_auroc_agrees_with_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rounded = np.round(SCORE)  # with ties
    assert metrics.auroc(rounded, TARGET) == pytest.approx(roc_auc_score(TARGET > 0, rounded))


@pytest.mark.parametrize("name", ["spearman", "pearson", "auroc", "relative_l2"])
def test_undefined_metrics_are_nan(name):
    constant = np.full(60, 2.0)
    assert np.isnan(metrics.REGRESSION[name](SCORE, constant))


def test_errors_of_a_known_case():
    score, target = np.array([1.0, 3.0, 4.0]), np.array([0.0, 4.0, 4.0])
    assert metrics.mae(score, target) == pytest.approx(2 / 3)
    assert metrics.rmse(score, target) == pytest.approx(np.sqrt(2 / 3))
    assert metrics.relative_l2(score, target) == pytest.approx(100 * (2 / 16) / 3)
    assert metrics.auroc(score, target) == 1.0


def test_relative_l2_has_no_unit():
    assert metrics.relative_l2(7 * SCORE, 7 * TARGET) == pytest.approx(metrics.relative_l2(SCORE, TARGET))


def _interval(metric, score, target, subjects):
    return metrics.bootstrap(lambda rows: metric(score[rows], target[rows]), subjects, 300)


def test_the_interval_holds_the_value_and_narrows_with_subjects():
    low, high = _interval(metrics.spearman, SCORE, TARGET, SUBJECTS)
    assert low < metrics.spearman(SCORE, TARGET) < high
    more = [np.tile(x, 9) for x in (SCORE, TARGET)]
    many = [f"{s}-{i}" for i in range(9) for s in SUBJECTS]
    low_many, high_many = _interval(metrics.spearman, *more, many)
    assert high_many - low_many < 0.6 * (high - low)


def test_clips_of_one_subject_are_resampled_together():
    """Copies of a subject's clips add no information, so the interval must stay."""
    copies = [np.repeat(x, 5) for x in (SCORE, TARGET)]
    once = _interval(metrics.mae, SCORE, TARGET, SUBJECTS)
    fivefold = _interval(metrics.mae, *copies, np.repeat(SUBJECTS, 5))
    np.testing.assert_allclose(once, fivefold)


def test_people_count_once_however_many_clips_they_have():
    np.testing.assert_array_equal(metrics.weights_of_people(["b", "a", "b", "c", "b"]), [1 / 3, 1, 1 / 3, 1, 1 / 3])


def test_one_subject_has_no_interval():
    for metric in metrics.REGRESSION.values():
        entry = metrics.with_interval(metric, SCORE, TARGET, ["s"] * 60, 20)
        assert entry["value"] is not None
        assert entry["interval"] is None


def test_an_undefined_metric_is_none():
    entry = metrics.with_interval(metrics.spearman, SCORE, np.full(60, 1.0), SUBJECTS, 20)
    assert entry == {"value": None, "interval": None}


def test_recalls_of_a_known_case():
    logits = np.eye(3)[[0, 0, 0, 1, 2, 2]]
    target = np.array([0, 0, 0, 0, 1, 2])
    assert metrics.accuracy(logits, target) == pytest.approx(4 / 6)
    assert metrics.uar(logits, target) == pytest.approx((3 / 4 + 0 + 1) / 3)


def test_classification_metrics_agree_with_scikit_learn():
    from sklearn.metrics import precision_recall_fscore_support, recall_score

    logits = RNG.normal(size=(60, 6)) + 2 * np.eye(6)[TARGET.astype(int)]  # nobody belongs to class 5
    given, occurring = np.argmax(logits, axis=1), np.unique(TARGET)
    assert 5 in given
    theirs = precision_recall_fscore_support(TARGET, given, labels=occurring, average="macro", zero_division=0)
    ours = [metrics.CLASSIFICATION[name](logits, TARGET) for name in ("precision", "recall", "f1")]
    np.testing.assert_allclose(ours, theirs[:3])
    of_others = [recall_score(TARGET != c, given != c) for c in occurring]
    assert metrics.specificity(logits, TARGET) == pytest.approx(np.mean(of_others))


@pytest.mark.parametrize("name", metrics.CLASSIFICATION)
def test_classification_metrics_reach_one_and_do_not_depend_on_the_order_of_classes(name):
    metric, target = metrics.CLASSIFICATION[name], TARGET.astype(int)
    assert metric(np.eye(5)[target], target) == 1
    logits = RNG.normal(size=(60, 5))
    renamed = np.array([3, 0, 4, 1, 2])
    assert metric(logits[:, np.argsort(renamed)], renamed[target]) == pytest.approx(metric(logits, target))
    assert metric(logits, target) < 1


def test_specificity_of_a_single_class_is_undefined():
    assert np.isnan(metrics.specificity(np.eye(3)[[0, 1]], np.array([0, 0])))


def test_the_mean_over_groups_averages_the_values_within_each():
    groups = ["smile" if i % 2 else "frown" for i in range(60)]
    entry = metrics.with_interval(metrics.spearman, SCORE, TARGET, SUBJECTS, 100, groups)
    apart = [metrics.spearman(SCORE[i::2], TARGET[i::2]) for i in range(2)]
    assert entry["value"] == pytest.approx(np.mean(apart))
    assert entry["interval"][0] < entry["value"] < entry["interval"][1]
    # A shift between groups must not count as a correlation within them.
    shifted = SCORE + 10 * (np.arange(60) % 2)
    again = metrics.with_interval(metrics.spearman, shifted, TARGET, SUBJECTS, 0, groups)
    assert again["value"] == pytest.approx(entry["value"])


# Agreement


def test_intraclass_correlations_of_shrout_and_fleiss():
    """Table 2 of Shrout and Fleiss (1979): ICC(2,1) is 0.29 and ICC(3,1) is 0.71."""
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert metrics.icc(ratings, absolute=True) == pytest.approx(0.29, abs=0.005)
    assert metrics.icc(ratings, absolute=False) == pytest.approx(0.71, abs=0.005)


def test_a_constant_difference_lowers_only_absolute_agreement():
    target = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert metrics.icc_a1(target, target) == pytest.approx(1)
    assert metrics.icc_c1(target + 1, target) == pytest.approx(1)
    assert metrics.icc_a1(target + 1, target) < 0.9
    assert metrics.bias(target + 1, target) == 1
    assert metrics.limit_low(target + 1, target) == metrics.limit_high(target + 1, target) == 1
    assert np.isnan(metrics.icc_a1(np.ones(3), np.ones(3)))


def test_agreement_is_undefined_if_no_rater_tells_clips_apart():
    """Means of equal numbers differ from them by rounding, which must not look like variance."""
    for score, target in ((0.3, 0.3), (0.7, 0.7), (2.7, 2.3)):
        for clips in (3, 10, 60):
            ratings = np.tile([score, target], (clips, 1))
            assert np.isnan([metrics.icc(ratings, absolute) for absolute in (True, False)]).all()


def test_kappa_is_that_of_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    target = rng.integers(0, 5, 200).astype(float)
    score = np.clip(target + rng.normal(0, 1, 200), 0, 4)
    expected = sklearn_metrics.cohen_kappa_score(np.floor(score + 0.5), target, weights="quadratic")
    assert metrics.kappa(score, target) == pytest.approx(expected)
    assert np.isnan(metrics.kappa(np.ones(4), np.ones(4)))


def test_whole_ratings_are_rounded_half_up():
    score, target = np.array([0.5, 1.49, 2.5, 3.9]), np.array([1.0, 1.0, 4.0, 1.0])
    assert metrics.exact(score, target) == 0.5
    assert metrics.within_one(score, target) == 0.75


def test_a_score_within_a_point_is_not_rounded():
    score, target = np.array([0.0, 1.49, 3.5, 2.6]), np.array([1.0, 0.0, 3.0, 4.0])
    assert metrics.within_point(score, target) == 0.5
    assert metrics.within_one(score, target) == 1


def test_limits_of_agreement_hold_95_percent_of_normal_differences():
    rng = np.random.default_rng(1)
    target = rng.uniform(0, 4, 20_000)
    score = target + rng.normal(0.3, 0.5, 20_000)
    inside = (score - target > metrics.limit_low(score, target)) & (score - target < metrics.limit_high(score, target))
    assert inside.mean() == pytest.approx(0.95, abs=0.005)


def test_the_confusion_table_counts_every_clip_once():
    table = agreement.confusion(np.array([0.2, 1.6, 3.9]), np.array([0.0, 1.0, 4.0]))
    assert table["ratings"] == [0, 1, 2, 3, 4]
    clips = np.array(table["clips"])
    assert clips.sum() == 3
    assert (clips[0, 0], clips[1, 2], clips[4, 4]) == (1, 1, 1)


def test_leaving_out_unsure_clips_lowers_the_error():
    rng = np.random.default_rng(2)
    spread = rng.uniform(0.1, 2, 500)
    target = np.zeros(500)
    curve = agreement.risk_coverage(spread * rng.normal(size=500), target, spread)
    assert curve["coverage"][-1] == 1
    assert np.all(np.diff(curve["mae"]) > 0)


def test_equal_spreads_say_nothing_about_the_error():
    target = np.repeat([0.0, 4.0], 50)
    curve = agreement.risk_coverage(np.ones(100), target, np.ones(100))
    np.testing.assert_allclose(curve["mae"], 2)


def test_the_confusion_table_of_many_ratings_has_few_labels():
    axes = training_log.new_figure(3, 3).subplots()
    target = np.arange(101.0)
    agreement._plot_confusion(axes, agreement.confusion(target, target))
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown[:3] == ["0", "9", "18"]
    assert len(shown) == 12


def test_predictions_come_back_as_they_were_written(tmp_path):
    infos = [ClipInfo(name, f"{name}=", "smile", 1.0, 5) for name in ("'=a", "-b", "c, d")]
    found = evaluation.Predictions(infos, np.array([0.5, 1.0, 2.0]), Output((), (), 1.0, 0.0, 4.0))
    evaluation._write_csv(found, tmp_path / run.PREDICTIONS)
    written = evaluation.read_predictions(tmp_path)
    assert written.clips == [info.id for info in infos]
    assert written.subjects == [info.subject for info in infos]
    for rows in (
        "score,raw\n",
        "logit_0,logit_1\n",
        "score,raw\na,b,smile,1,nan,0.5\n",
        "score,raw\na,b,smile,inf,1,0.5\n",
    ):
        (tmp_path / run.PREDICTIONS).write_text(f"clip,subject,expression,target,{rows}")
        with user_error("damaged_file", run.PREDICTIONS):
            evaluation.read_predictions(tmp_path)
