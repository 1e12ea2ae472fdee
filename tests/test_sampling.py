"""Which frames a model sees, how short clips are padded, and what augmentation does to both streams."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from tramp_jax import config as defaults
from tramp_jax.batches import augment, pipeline, sampling
from tramp_jax.batches.draws import Draw
from tramp_jax.data import clips, head_motion, landmarks
from tramp_jax.synthetic.faces import SyntheticFaces

FACE = SyntheticFaces(1, 1, ("smile",), with_frames=False)


@pytest.fixture(scope="module")
def clip():
    return FACE[0]


def drawn_clip(n: int, seed: int = 0, side: int = 40) -> clips.Clip:
    """The first n frames of a face, each with an image and colours that no other frame has."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(30, 256, (n, side, side, 3)).astype(np.uint8)
    pixels = rng.integers(30, 256, (n, 63, 3)).astype(np.uint8)
    info = dataclasses.replace(FACE[0].info, id=f"drawn-{n}", num_frames=n, score=float(seed))
    return dataclasses.replace(
        FACE[0], info=info, landmarks=FACE[0].landmarks[:n], depth=FACE[0].depth[:n], pixels=pixels, frames=frames
    )


@pytest.fixture
def recipe():
    config = defaults.base()
    config.model.trajectory.length = 64
    config.model.rgb.update(num_frames=16, image_size=35)
    return config


def test_a_short_trajectory_loops_and_its_positions_with_it():
    taken = sampling.trajectory_frames(50, 128, "random", Draw(0, 0))
    np.testing.assert_array_equal(taken, np.arange(128) % 50)
    position = sampling.position(taken, 128)
    assert position[0] == position[50] == -1.0
    assert position.max() == np.float32(2 * 49 / 128 - 1)


def test_testing_keeps_the_last_frames_of_a_long_trajectory():
    taken = sampling.trajectory_frames(200, 128, "random", None)
    np.testing.assert_array_equal(taken, np.arange(72, 200))
    assert sampling.position(taken, 128)[0] == np.float32(2 * 72 / 128 - 1)


def test_training_takes_random_runs_that_reach_both_ends():
    runs = [sampling.trajectory_frames(70, 64, "random", Draw(0, position)) for position in range(100)]
    assert all(np.all(np.diff(run) == 1) for run in runs)
    assert {run[0] for run in runs} == set(range(7))
    np.testing.assert_array_equal(sampling.trajectory_frames(70, 64, "last", Draw(0, 0)), np.arange(6, 70))


def test_frames_of_a_long_clip():
    np.testing.assert_array_equal(sampling.rgb_frames(161, 80, None), np.linspace(0, 160, 80).astype(int))
    drawn = sampling.rgb_frames(161, 80, Draw(0, 0))
    assert len(set(drawn)) == 80
    assert np.all(np.diff(drawn) > 0)
    assert drawn.max() <= 160


def test_the_frame_stream_of_training_can_be_a_run_or_evenly_spaced():
    runs = [sampling.rgb_frames(20, 16, Draw(0, position), choice="consecutive") for position in range(60)]
    assert all(np.all(np.diff(run) == 1) for run in runs)
    assert {run[0] for run in runs} == set(range(5))
    uniform = sampling.rgb_frames(161, 80, Draw(0, 0), choice="uniform")
    np.testing.assert_array_equal(uniform, sampling.rgb_frames(161, 80, None, choice="consecutive"))
    with pytest.raises(ValueError, match=r"data.frame_choice is 'even'; known: random, consecutive, uniform"):
        sampling.rgb_frames(161, 80, Draw(0, 0), choice="even")


@pytest.mark.parametrize("draw", [None, Draw(0, 0)])
def test_frames_of_a_short_clip_loop(draw):
    np.testing.assert_array_equal(sampling.rgb_frames(30, 80, draw), np.arange(80) % 30)


def test_the_paper_keeps_every_nose_tip_at_the_origin_and_the_code_only_the_first(clip):
    paper = sampling.trajectory(clip, "xy")
    released = sampling.trajectory(clip, "xy", "first_frame")
    np.testing.assert_array_equal(paper[0], released[0])
    nose = clip.landmarks[:, 86]
    np.testing.assert_allclose(released - paper, np.tile((nose - nose[0])[:, None], (1, 63, 1)), atol=1e-4)
    assert np.abs(released - paper).max() > 1


def test_head_translation_leaves_the_trajectory(clip):
    moved = type(clip)(clip.info, clip.landmarks + np.linspace(0, 20, len(clip.landmarks))[:, None, None], clip.layout)
    np.testing.assert_allclose(sampling.trajectory(moved, "xy"), sampling.trajectory(clip, "xy"), atol=1e-3)


def test_colours_are_asked_only_of_clips_that_have_them(clip):
    with pytest.raises(ValueError, match='channels to "xy"'):
        sampling.trajectory(clip, "xyrgb")
    with pytest.raises(ValueError, match="xyrgb, xy, rgb"):
        sampling.trajectory(clip, "xyz")


# --- padding -------------------------------------------------------------------------------------------------------


def padded(clip: clips.Clip, length: int, padding: str, channels: str = "xy") -> tuple[np.ndarray, np.ndarray]:
    """The trajectory (T, 63, C) that a model sees of a clip, and its positions (T,)."""
    whole = sampling.trajectory(clip, channels)
    taken = sampling.trajectory_frames(len(whole), length, "last", None, padding)
    return sampling.extend(whole, length, padding, channels)[taken], sampling.position(taken, length)


def test_zeros_and_the_last_frame_follow_a_short_trajectory_and_are_counted_on():
    clip = drawn_clip(30)
    whole = sampling.trajectory(clip, "xyrgb")
    for padding, tail in (("zero", np.zeros_like(whole[-1])), ("repeat", whole[-1])):
        values, position = padded(clip, 64, padding, "xyrgb")
        assert values.shape == (64, 63, 5)
        np.testing.assert_array_equal(values[:30], whole)
        np.testing.assert_array_equal(values[30:], np.broadcast_to(tail, (34, 63, 5)))
        np.testing.assert_array_equal(position, sampling.position(np.arange(64), 64))


@pytest.mark.parametrize("n", [2, 3, 4, 30, 44])
def test_a_spline_goes_from_the_first_frame_to_the_last_at_even_pace(n):
    clip = drawn_clip(n)
    values, position = padded(clip, 64, "spline")
    whole = sampling.trajectory(clip, "xy")
    np.testing.assert_allclose(values[[0, -1]], whole[[0, -1]], atol=1e-4)
    np.testing.assert_array_equal(position, sampling.position(np.arange(64), 64))
    stretched = np.interp(np.linspace(0, n - 1, 64), np.arange(n), whole[:, 40, 1])
    assert np.abs(values[:, 40, 1] - stretched).max() < 1.5  # the detector's jitter is 0.3 pixels


def test_a_spline_is_exact_for_a_cubic():
    times, cubic = np.arange(30.0), np.polynomial.Polynomial([-20, -2, 0.3, -0.007])
    whole = np.broadcast_to(cubic(times)[:, None, None], (30, 63, 2))
    stretched = sampling.extend(whole, 128, "spline", "xy")
    expected = cubic(np.linspace(0, 29, 128))[:, None, None]
    np.testing.assert_allclose(stretched, np.broadcast_to(expected, (128, 63, 2)), atol=1e-9)
    assert stretched.min() < -10  # positions are not cut off at 0, as colours are


def test_a_spline_leaves_colours_within_their_range():
    colours = np.full((12, 63, 5), 250, np.float32)
    colours[:6] = 3
    stretched = sampling.extend(colours, 64, "spline", "xyrgb")
    assert stretched[..., :2].max() > 255  # it does swing beyond its points
    assert stretched[..., :2].min() < 0
    assert 0 <= stretched[..., 2:].min() < stretched[..., 2:].max() <= 255


@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_padding_of_a_single_frame_and_of_none_missing(padding):
    values, position = padded(drawn_clip(1), 64, padding, "xyrgb")
    assert values.shape == (64, 63, 5)
    assert np.all(np.isfinite(values))
    assert position[0] == -1
    long = sampling.trajectory(drawn_clip(40), "xy")
    assert sampling.extend(long, 32, padding, "xy") is long
    np.testing.assert_array_equal(sampling.trajectory_frames(40, 32, "last", None, padding), np.arange(8, 40))
    np.testing.assert_array_equal(sampling.rgb_frames(40, 32, None, padding), sampling.rgb_frames(40, 32, None))
    np.testing.assert_array_equal(sampling.rgb_frames(32, 32, None, padding), np.arange(32))
    assert np.all(sampling.rgb_frames(1, 8, None, padding)[1:] == (-1 if padding == "zero" else 0))


@pytest.mark.parametrize("draw", [None, Draw(0, 0)])
def test_the_frame_stream_is_padded_as_the_trajectory(draw):
    np.testing.assert_array_equal(sampling.rgb_frames(5, 8, draw, "zero"), [0, 1, 2, 3, 4, -1, -1, -1])
    np.testing.assert_array_equal(sampling.rgb_frames(5, 8, draw, "repeat"), [0, 1, 2, 3, 4, 4, 4, 4])
    np.testing.assert_array_equal(sampling.rgb_frames(5, 8, draw, "spline"), [0, 1, 1, 2, 2, 3, 3, 4])
    # A clip whose values are their frame numbers shows which moment of the clip either stream is at.
    whole = np.broadcast_to(np.arange(30.0)[:, None, None] + 100, (30, 63, 2))
    for padding in ("loop", "repeat", "spline"):
        taken = sampling.trajectory_frames(30, 64, "last", None, padding)
        moments = sampling.extend(whole, 64, padding, "xy")[taken][:, 0, 0] - 100
        assert np.abs(moments - sampling.rgb_frames(30, 64, draw, padding)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("n", [9, 40, 200])
@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_positions_lead_back_to_the_frames_of_the_clip(padding, n):
    whole = np.broadcast_to(np.arange(1.0, n + 1)[:, None, None], (n, 63, 2))
    taken = sampling.trajectory_frames(n, 64, "last", None, padding)
    seen = sampling.extend(whole, 64, padding, "xy")[taken][:, 0, 0]
    numbers = np.rint((sampling.position(taken, 64) + 1) * 32).astype(int)
    source = sampling.sources(numbers, n, 64, padding)
    assert np.all((source == sampling.NO_FRAME) == (seen == 0))
    assert np.abs(seen - 1 - source).max() <= (0.5 + 1e-9 if padding == "spline" else 0)


def test_unknown_options_are_named():
    for call in (
        lambda: sampling.rgb_frames(5, 8, None, "mirror"),
        lambda: sampling.trajectory_frames(5, 8, "last", None, "mirror"),
        lambda: sampling.sources(np.arange(8), 5, 8, "mirror"),
        lambda: sampling.extend(np.zeros((5, 63, 2)), 8, "mirror", "xy"),
    ):
        with pytest.raises(ValueError, match=r"data.padding is 'mirror'; known: loop, zero, repeat, spline"):
            call()
    with pytest.raises(ValueError, match=r"data.truncation is 'first'; known: random, last"):
        sampling.trajectory_frames(5, 8, "first", None)


def stacked(config, *several: clips.Clip) -> dict[str, np.ndarray]:
    """An evaluation batch with all frames of the model, where the pipeline ships the distinct ones and their places."""
    samples = [pipeline.Sampler(config).test(clip) for clip in several]
    for sample in samples:
        where = sample.pop("frame_index")
        sample |= {name: sample[name][where] for name in ("frames", "frames_present") if name in sample}
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_a_batch_of_short_and_long_clips_is_the_clips_each_on_its_own(recipe, padding):
    recipe.data.padding = padding
    several = [drawn_clip(n, seed) for seed, n in enumerate((9, 45, 1, 12))]
    together = augment.for_evaluation(stacked(recipe, *several), 35)
    for i, clip in enumerate(several):
        alone = augment.for_evaluation(stacked(recipe, clip), 35)
        for name in ("frames", "trajectories", "index_t"):
            assert together[name].dtype == np.float32
            np.testing.assert_array_equal(together[name][i], alone[name][0])
    assert set(together) == {"frames", "trajectories", "index_t", "target"}


@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_zero_padding_is_zero_in_the_input_of_the_model_and_no_other_padding_is(recipe, padding):
    recipe.data.padding = padding
    recipe.augment.update(flip=0.5, crop=True, reverse_time=0.0)
    clip = drawn_clip(12)
    for batch in (
        augment.for_evaluation(stacked(recipe, clip), 35),
        augment.for_training(stacked(recipe, clip), recipe.augment, 35, jax.random.key(0)),
    ):
        blank = np.all(batch["frames"] == 0, axis=(0, 2, 3, 4))
        np.testing.assert_array_equal(blank, np.arange(16) >= (12 if padding == "zero" else 16))
        empty = np.all(batch["trajectories"] == 0, axis=(0, 2, 3))
        np.testing.assert_array_equal(empty, np.arange(64) >= (12 if padding == "zero" else 64))


@pytest.mark.parametrize("padding", sampling.PADDINGS)
def test_a_still_clip_tells_nothing_of_its_length(recipe, padding):
    recipe.data.update(padding=padding, still=True)
    long = drawn_clip(30)
    short = dataclasses.replace(
        long, landmarks=long.landmarks[:9], depth=long.depth[:9], pixels=long.pixels[:9], frames=long.frames[:9]
    )
    batch = augment.for_evaluation(stacked(recipe, short, long), 35)
    for name in ("frames", "trajectories", "index_t"):
        np.testing.assert_array_equal(batch[name][0], batch[name][1])


def test_options_reach_the_training_sample(recipe):
    clip = drawn_clip(45)
    recipe.data.update(padding="zero", frame_choice="consecutive")
    sample = pipeline.Sampler(recipe).train(0, clip)
    np.testing.assert_array_equal(sample["trajectories"][45:], 0)
    assert sample["frames_present"].all()
    start = next(i for i in range(30) if np.array_equal(sample["frames"][0], clip.frames[i]))
    np.testing.assert_array_equal(sample["frames"], clip.frames[start : start + 16])
    recipe.data.padding = "loop"
    recipe.landmarks.normalise = "similarity"
    fitted = pipeline.Sampler(recipe).test(clip)
    assert "frames_present" not in fitted
    whole = sampling.trajectory(clip, "xyrgb", normalise="similarity")
    np.testing.assert_array_equal(fitted["trajectories"], whole[np.arange(64) % 45])
    recipe.landmarks.update(normalise="nose", frontalise=True)
    turned = pipeline.Sampler(recipe).test(clip)["trajectories"]
    np.testing.assert_array_equal(turned[:45], sampling.trajectory(clip, "xyrgb", frontalise=True))


# --- mirrors and reversal ------------------------------------------------------------------------------------------


def other_side(name: str) -> str:
    return name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")


# What landmark 106-index i of a mirrored face was called before: from the names, not from ``landmarks.MIRROR``.
SIDES = np.array([landmarks.FACEPP_106.index(other_side(name)) for name in landmarks.FACEPP_106])


def photographed_in_a_mirror(clip: clips.Clip) -> clips.Clip:
    """The clip whose images are flipped, its landmarks found in those, and colours read under them."""
    width = clip.frames.shape[2]
    points = clip.landmarks[:, SIDES] * (-1, 1) + (width, 0)
    frames = clip.frames[:, :, ::-1]
    return with_colours(dataclasses.replace(clip, landmarks=points, depth=clip.depth[:, SIDES], frames=frames))


def with_colours(clip: clips.Clip) -> clips.Clip:
    chosen = landmarks.select(clip.landmarks, clip.layout)
    colours = [landmarks.pixel_values(*pair) for pair in zip(clip.frames, chosen, strict=True)]
    return dataclasses.replace(clip, pixels=np.stack(colours))


@pytest.mark.parametrize("frontalise", [False, True])
@pytest.mark.parametrize("normalise", head_motion.NORMALISATIONS)
@pytest.mark.parametrize("channels", sampling.CHANNELS)
def test_mirroring_a_trajectory_is_extracting_it_from_flipped_images(channels, normalise, frontalise):
    clip = with_colours(drawn_clip(9, side=256))
    flipped = sampling.trajectory(photographed_in_a_mirror(clip), channels, normalise, frontalise)
    straight = sampling.trajectory(clip, channels, normalise, frontalise)
    np.testing.assert_allclose(sampling.mirror(straight), flipped, atol=1e-3)
    assert np.abs(straight - flipped).max() > 3
    np.testing.assert_array_equal(sampling.mirror(sampling.mirror(straight)), straight)


def test_only_the_methods_own_trajectories_are_mirrored():
    for shape in ((8, 48, 3), (8, 63, 4)):
        with pytest.raises(ValueError, match="can be mirrored"):
            sampling.mirror(np.zeros(shape))


@pytest.fixture
def both():
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (64, 3, 8, 8, 3)).astype(np.uint8),
        "trajectories": rng.normal(size=(64, 6, 63, 5)).astype(np.float32),
        "index_t": rng.normal(size=(64, 6)).astype(np.float32),
        "target": np.zeros(64, np.float32),
    }


def found(changed: np.ndarray, plain: np.ndarray, change, atol: float = 1e-5) -> list[bool]:
    """For each clip whether it was changed; each must be as it was or changed."""
    is_changed = [np.allclose(a, change(b), atol=atol) for a, b in zip(changed, plain, strict=True)]
    is_plain = [np.allclose(a, b, atol=atol) for a, b in zip(changed, plain, strict=True)]
    assert all(a != b for a, b in zip(is_changed, is_plain, strict=True))
    return is_changed


@pytest.mark.parametrize("consistent", [False, True])
def test_a_flipped_clip_has_a_mirrored_trajectory_where_that_is_asked_for(recipe, both, consistent):
    recipe.augment.update(crop=False, flip=0.5, reverse_time=0.0, flip_trajectory=consistent)
    out = augment.for_training(both, recipe.augment, 8, jax.random.key(0))
    plain = np.asarray(augment.normalise(both["frames"]))
    flipped = found(out["frames"], plain, lambda frames: frames[:, :, ::-1])
    assert 16 < sum(flipped) < 48
    if consistent:
        assert found(out["trajectories"], both["trajectories"], sampling.mirror) == flipped
        alone = {"trajectories": both["trajectories"]}
        out = augment.for_training(alone, recipe.augment, 8, jax.random.key(0))
        assert found(out["trajectories"], both["trajectories"], sampling.mirror) == flipped
    else:
        np.testing.assert_array_equal(out["trajectories"], both["trajectories"])


@pytest.mark.parametrize("consistent", [False, True])
def test_a_reversed_trajectory_has_reversed_frames_where_that_is_asked_for(recipe, both, consistent):
    recipe.augment.update(crop=False, flip=0.0, reverse_time=0.5, reverse_frames=consistent)
    out = augment.for_training(both, recipe.augment, 8, jax.random.key(0))
    plain = np.asarray(augment.normalise(both["frames"]))
    reversed_ = found(out["trajectories"], both["trajectories"], lambda trajectory: trajectory[::-1])
    assert 16 < sum(reversed_) < 48
    np.testing.assert_array_equal(out["index_t"], both["index_t"])
    if consistent:
        assert found(out["frames"], plain, lambda frames: frames[::-1]) == reversed_
    else:
        np.testing.assert_allclose(out["frames"], plain, atol=1e-5)


def test_consistent_operations_are_drawn_apart_from_each_other(recipe, both):
    recipe.augment.update(crop=False, flip_trajectory=True, reverse_frames=True)
    out = augment.for_training(both, recipe.augment, 8, jax.random.key(0))
    seen = set()
    for i in range(64):
        for flip, reverse in itertools.product((1, -1), repeat=2):
            frames = np.asarray(augment.normalise(both["frames"][i]))[::reverse, :, ::flip]
            trajectory = both["trajectories"][i][::reverse]
            if np.allclose(out["frames"][i], frames, atol=1e-5):
                expected = sampling.mirror(trajectory) if flip < 0 else trajectory
                np.testing.assert_allclose(out["trajectories"][i], expected, atol=1e-6)
                seen.add((flip, reverse))
    assert len(seen) == 4


def test_padding_is_reversed_with_its_frames(recipe, both):
    recipe.augment.update(crop=False, flip=0.0, reverse_time=1.0, reverse_frames=True)
    both["frames_present"] = np.tile(np.arange(3) < 2, (64, 1))
    out = augment.for_training(both, recipe.augment, 8, jax.random.key(0))
    assert "frames_present" not in out
    np.testing.assert_array_equal(np.all(out["frames"] == 0, axis=(2, 3, 4)), np.tile([True, False, False], (64, 1)))


def test_augmentation_of_a_clip_does_not_see_the_others_of_its_batch(recipe, both):
    recipe.augment.update(flip_trajectory=True, reverse_frames=True)
    other = dict(both)
    for name in ("frames", "trajectories"):
        other[name] = np.concatenate([both[name][:32], both[name][32:][::-1]])
    out = [augment.for_training(batch, recipe.augment, 7, jax.random.key(5)) for batch in (both, other)]
    for name in ("frames", "trajectories"):
        np.testing.assert_array_equal(out[0][name][:32], out[1][name][:32])
        assert np.any(out[0][name][32:] != out[1][name][32:])
