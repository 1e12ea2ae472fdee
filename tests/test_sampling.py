"""Which frames a model sees."""

import numpy as np
import pytest

from tramp_jax.data import sampling
from tramp_jax.data.synthetic import SyntheticFaces


@pytest.fixture(scope="module")
def clip():
    return SyntheticFaces(1, 1, ("smile",), with_frames=False)[0]


def test_a_short_trajectory_loops_and_its_positions_with_it():
    taken = sampling.trajectory_frames(50, 128, "random", np.random.default_rng(0))
    np.testing.assert_array_equal(taken, np.arange(128) % 50)
    position = sampling.position(taken, 128)
    assert position[0] == position[50] == -1.0
    assert position.max() == np.float32(2 * 49 / 128 - 1)


def test_testing_keeps_the_last_frames_of_a_long_trajectory():
    taken = sampling.trajectory_frames(200, 128, "random", None)
    np.testing.assert_array_equal(taken, np.arange(72, 200))
    assert sampling.position(taken, 128)[0] == np.float32(2 * 72 / 128 - 1)


def test_training_takes_random_runs_that_reach_both_ends():
    rng = np.random.default_rng(0)
    runs = [sampling.trajectory_frames(70, 64, "random", rng) for _ in range(100)]
    assert all(np.all(np.diff(run) == 1) for run in runs)
    assert {run[0] for run in runs} == set(range(7))
    np.testing.assert_array_equal(sampling.trajectory_frames(70, 64, "last", rng), np.arange(6, 70))


def test_frames_of_a_long_clip():
    np.testing.assert_array_equal(sampling.rgb_frames(161, 80, None), np.linspace(0, 160, 80).astype(int))
    drawn = sampling.rgb_frames(161, 80, np.random.default_rng(0))
    assert len(set(drawn)) == 80
    assert np.all(np.diff(drawn) > 0)
    assert drawn.max() <= 160


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
def test_frames_of_a_short_clip_loop(rng):
    np.testing.assert_array_equal(sampling.rgb_frames(30, 80, rng), np.arange(80) % 30)


def test_the_paper_keeps_every_nose_tip_at_the_origin_and_the_code_only_the_first(clip):
    paper = sampling.trajectory(clip, "xy", first_frame_centring=False)
    released = sampling.trajectory(clip, "xy", first_frame_centring=True)
    np.testing.assert_array_equal(paper[0], released[0])
    nose = clip.landmarks[:, 86]
    np.testing.assert_allclose(released - paper, np.tile((nose - nose[0])[:, None], (1, 63, 1)), atol=1e-4)
    assert np.abs(released - paper).max() > 1


def test_head_translation_leaves_the_trajectory(clip):
    moved = type(clip)(clip.info, clip.landmarks + np.linspace(0, 20, len(clip.landmarks))[:, None, None], clip.layout)
    np.testing.assert_allclose(
        sampling.trajectory(moved, "xy", False), sampling.trajectory(clip, "xy", False), atol=1e-3
    )


def test_colours_are_asked_only_of_clips_that_have_them(clip):
    with pytest.raises(ValueError, match='channels to "xy"'):
        sampling.trajectory(clip, "xyrgb", False)
    with pytest.raises(ValueError, match="xyrgb, xy, rgb"):
        sampling.trajectory(clip, "xyz", False)
