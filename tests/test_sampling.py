"""The frames that a model sees, padding of short clips, and augmentation of both streams."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from tests.raises import user_error
from tests.test_landmarks import other_side
from tests.tiny import sized
from tramp_jax import channels
from tramp_jax import config as defaults
from tramp_jax.batches import augment, pipeline, trajectories, view
from tramp_jax.batches.draws import Draw
from tramp_jax.batches.view import View
from tramp_jax.data import clips, head_motion, landmarks
from tramp_jax.models import Inputs
from tramp_jax.synthetic.faces import SyntheticFaces

FACE = SyntheticFaces(1, 1, ("smile",), with_frames=False)


@pytest.fixture(scope="module")
def clip():
    return FACE[0]


def drawn_clip(n: int, seed: int = 0, side: int = 40) -> clips.Clip:
    """The first n frames of a face, each with its own random image and colours."""
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


def test_a_short_trajectory_loops_with_its_positions(recipe):
    recipe.model.trajectory.length = 128
    taken = View.of(recipe, 50, Draw(0, 0)).numbers
    np.testing.assert_array_equal(taken, np.arange(128) % 50)
    position = view.index_t(taken, 128)
    assert position[0] == position[50] == -1.0
    assert position.max() == np.float32(2 * 49 / 128 - 1)


def test_evaluation_takes_the_last_frames_of_a_long_trajectory():
    taken = view.trajectory_numbers(200, 128)
    np.testing.assert_array_equal(taken, np.arange(72, 200))
    assert view.index_t(taken, 128)[0] == np.float32(2 * 72 / 128 - 1)


def test_training_takes_random_runs_that_reach_both_ends(recipe):
    runs = [View.of(recipe, 70, Draw(0, position)).numbers for position in range(100)]
    assert all(np.all(np.diff(run) == 1) for run in runs)
    assert {run[0] for run in runs} == set(range(7))
    recipe.data.truncation = "last"
    np.testing.assert_array_equal(View.of(recipe, 70, Draw(0, 0)).numbers, np.arange(6, 70))


def test_training_takes_random_frames_in_order(recipe):
    np.testing.assert_array_equal(view.frame_sources(161, 80), np.linspace(0, 160, 80).astype(int))
    recipe.model.rgb.num_frames = 80
    drawn = View.of(recipe, 161, Draw(0, 0)).frames
    assert len(set(drawn)) == 80
    assert np.all(np.diff(drawn) > 0)
    assert drawn.max() <= 160


def test_training_can_take_consecutive_or_evenly_spaced_frames(recipe):
    recipe.data.frame_choice = "consecutive"
    runs = [View.of(recipe, 20, Draw(0, position)).frames for position in range(60)]
    assert all(np.all(np.diff(run) == 1) for run in runs)
    assert {run[0] for run in runs} == set(range(5))
    recipe.data.frame_choice = "uniform"
    np.testing.assert_array_equal(View.of(recipe, 161, Draw(0, 0)).frames, view.frame_sources(161, 16))


@pytest.mark.parametrize("draw", [None, Draw(0, 0)])
def test_frames_of_a_short_clip_loop(recipe, draw):
    np.testing.assert_array_equal(View.of(recipe, 10, draw).frames, np.arange(16) % 10)


def test_every_padding_can_be_chosen():
    data = defaults.OPTIONS["data"]
    assert tuple(view.PADDINGS) == data["padding"].known
    assert ("same", *view.PADDINGS) == data["frame_padding"].known
    assert [name for name, mode in view.PADDINGS.items() if mode.blank] == ["zero"]


def test_the_report_says_which_frames_are_read(recipe):
    assert view.describe(recipe, 40) == "trajectory: all 40, repeated to 64; pictures: 16 evenly spaced of 40"
    recipe.data.still = True
    still = "the first of 40, held still"
    assert view.describe(recipe, 40) == f"trajectory: {still}; pictures: {still}"


def test_the_paper_centres_every_frame_and_the_released_code_only_the_first(clip):
    paper = trajectories.trajectory(clip, "xy")
    released = trajectories.trajectory(clip, "xy", normalise="first_frame")
    np.testing.assert_array_equal(paper[0], released[0])
    nose = clip.landmarks[:, 86]
    np.testing.assert_allclose(released - paper, np.tile((nose - nose[0])[:, None], (1, 63, 1)), atol=1e-4)
    assert np.abs(released - paper).max() > 1


def test_head_translation_does_not_change_the_trajectory(clip):
    moved = type(clip)(clip.info, clip.landmarks + np.linspace(0, 20, len(clip.landmarks))[:, None, None], clip.layout)
    np.testing.assert_allclose(trajectories.trajectory(moved, "xy"), trajectories.trajectory(clip, "xy"), atol=1e-3)


def test_a_clip_without_colours_is_refused_if_the_model_reads_them(clip):
    with user_error("no_colours", clip.info.id, "model.trajectory.channels"):
        trajectories.trajectory(clip, "xyrgb")


# --- padding -------------------------------------------------------------------------------------------------------


def padded(clip: clips.Clip, length: int, padding: str, channels: str = "xy") -> tuple[np.ndarray, np.ndarray]:
    """The trajectory (T, 63, C) that a model sees of a clip, and its positions (T,)."""
    whole = trajectories.trajectory(clip, channels)
    taken = view.trajectory_numbers(len(whole), length, padding)
    return view.extended(whole, length, padding, channels)[taken], view.index_t(taken, length)


def test_zeros_or_the_last_frame_follow_a_short_trajectory_and_positions_go_on():
    clip = drawn_clip(30)
    whole = trajectories.trajectory(clip, "xyrgb")
    for padding, tail in (("zero", np.zeros_like(whole[-1])), ("repeat", whole[-1])):
        values, position = padded(clip, 64, padding, "xyrgb")
        assert values.shape == (64, 63, 5)
        np.testing.assert_array_equal(values[:30], whole)
        np.testing.assert_array_equal(values[30:], np.broadcast_to(tail, (34, 63, 5)))
        np.testing.assert_array_equal(position, view.index_t(np.arange(64), 64))


@pytest.mark.parametrize("n", [2, 3, 4, 30, 44])
def test_a_spline_goes_from_the_first_frame_to_the_last_at_an_even_pace(n):
    clip = drawn_clip(n)
    values, position = padded(clip, 64, "spline")
    whole = trajectories.trajectory(clip, "xy")
    np.testing.assert_allclose(values[[0, -1]], whole[[0, -1]], atol=1e-4)
    np.testing.assert_array_equal(position, view.index_t(np.arange(64), 64))
    stretched = np.interp(np.linspace(0, n - 1, 64), np.arange(n), whole[:, 40, 1])
    assert np.abs(values[:, 40, 1] - stretched).max() < 1.5  # the detector's jitter is 0.3 pixels


def test_a_spline_is_exact_for_a_cubic():
    times, cubic = np.arange(30.0), np.polynomial.Polynomial([-20, -2, 0.3, -0.007])
    whole = np.broadcast_to(cubic(times)[:, None, None], (30, 63, 2))
    stretched = view.extended(whole, 128, "spline", "xy")
    expected = cubic(np.linspace(0, 29, 128))[:, None, None]
    np.testing.assert_allclose(stretched, np.broadcast_to(expected, (128, 63, 2)), atol=1e-9)
    assert stretched.min() < -10  # unlike colours, positions are not clipped at 0


def test_a_spline_keeps_colours_within_their_range():
    colours = np.full((12, 63, 5), 250, np.float32)
    colours[:6] = 3
    stretched = view.extended(colours, 64, "spline", "xyrgb")
    assert stretched[..., :2].max() > 255  # it overshoots its points
    assert stretched[..., :2].min() < 0
    assert 0 <= stretched[..., 2:].min() < stretched[..., 2:].max() <= 255


@pytest.mark.parametrize("padding", view.PADDINGS)
def test_padding_of_a_single_frame_and_of_a_long_clip(padding):
    values, position = padded(drawn_clip(1), 64, padding, "xyrgb")
    assert values.shape == (64, 63, 5)
    assert np.all(np.isfinite(values))
    assert position[0] == -1
    long = trajectories.trajectory(drawn_clip(40), "xy")
    assert view.extended(long, 32, padding, "xy") is long
    np.testing.assert_array_equal(view.trajectory_numbers(40, 32, padding), np.arange(8, 40))
    np.testing.assert_array_equal(view.frame_sources(40, 32, padding), view.frame_sources(40, 32))
    np.testing.assert_array_equal(view.frame_sources(32, 32, padding), np.arange(32))
    assert np.all(view.frame_sources(1, 8, padding)[1:] == (-1 if padding == "zero" else 0))


def test_both_streams_are_padded_alike():
    np.testing.assert_array_equal(view.frame_sources(5, 8, "zero"), [0, 1, 2, 3, 4, -1, -1, -1])
    np.testing.assert_array_equal(view.frame_sources(5, 8, "repeat"), [0, 1, 2, 3, 4, 4, 4, 4])
    np.testing.assert_array_equal(view.frame_sources(5, 8, "spline"), [0, 1, 1, 2, 2, 3, 3, 4])
    # In a clip whose values are its frame numbers, the values of a stream say at which moment of the clip it is.
    whole = np.broadcast_to(np.arange(30.0)[:, None, None] + 100, (30, 63, 2))
    for padding in ("loop", "repeat", "spline"):
        taken = view.trajectory_numbers(30, 64, padding)
        moments = view.extended(whole, 64, padding, "xy")[taken][:, 0, 0] - 100
        assert np.abs(moments - view.frame_sources(30, 64, padding)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("n", [9, 40, 200])
@pytest.mark.parametrize("padding", view.PADDINGS)
def test_frames_of_the_clip_follow_from_index_t(padding, n):
    whole = np.broadcast_to(np.arange(1.0, n + 1)[:, None, None], (n, 63, 2))
    taken = view.trajectory_numbers(n, 64, padding)
    seen = view.extended(whole, 64, padding, "xy")[taken][:, 0, 0]
    numbers = np.rint((view.index_t(taken, 64) + 1) * 32).astype(int)
    source = view.trajectory_sources(numbers, n, 64, padding)
    assert np.all((source == view.BLANK) == (seen == 0))
    assert np.abs(seen - 1 - source).max() <= (0.5 + 1e-9 if padding == "spline" else 0)


def stacked(config, *several: clips.Clip) -> Inputs:
    """An evaluation batch with all F frames of each clip in order."""
    return pipeline.stacked([pipeline.all_frames(pipeline.Sampler(config).test(clip).inputs) for clip in several])


@pytest.mark.parametrize("padding", view.PADDINGS)
def test_clips_of_a_batch_do_not_depend_on_each_other(recipe, padding):
    recipe.data.padding = padding
    several = [drawn_clip(n, seed) for seed, n in enumerate((9, 45, 1, 12))]
    together = augment.for_evaluation(stacked(recipe, *several), sized(recipe, 35).model)
    for i, clip in enumerate(several):
        alone = augment.for_evaluation(stacked(recipe, clip), sized(recipe, 35).model)
        for name in ("frames", "trajectories", "index_t"):
            assert getattr(together, name).dtype == np.float32
            np.testing.assert_array_equal(getattr(together, name)[i], getattr(alone, name)[0])


@pytest.mark.parametrize("padding", view.PADDINGS)
def test_only_zero_padding_is_zero_in_the_input_of_the_model(recipe, padding):
    recipe.data.padding = padding
    recipe.augment.update(flip=0.5, crop=True, reverse_time=0.0)
    clip = drawn_clip(12)
    for batch in (
        augment.for_evaluation(stacked(recipe, clip), sized(recipe, 35).model),
        augment.for_training(stacked(recipe, clip), sized(recipe, 35), jax.random.key(0)),
    ):
        blank = np.all(batch.frames == 0, axis=(0, 2, 3, 4))
        np.testing.assert_array_equal(blank, np.arange(16) >= (12 if padding == "zero" else 16))
        empty = np.all(batch.trajectories == 0, axis=(0, 2, 3))
        np.testing.assert_array_equal(empty, np.arange(64) >= (12 if padding == "zero" else 64))


@pytest.mark.parametrize("of_frames", view.PADDINGS)
@pytest.mark.parametrize("padding", view.PADDINGS)
def test_each_stream_has_its_own_padding(recipe, padding, of_frames):
    def both(frame_padding, **data):
        recipe.data.update(frame_padding=frame_padding, **data)
        return pipeline.Sampler(recipe).train(0, clip).inputs

    clip = drawn_clip(12)
    found = both(of_frames, padding=padding)
    trajectory, frames = both("same", padding=padding), both("same", padding=of_frames)
    np.testing.assert_array_equal(found.trajectories, trajectory.trajectories)
    np.testing.assert_array_equal(found.index_t, trajectory.index_t)
    np.testing.assert_array_equal(found.frames, frames.frames)
    np.testing.assert_array_equal(found.frames_present, frames.frames_present)


@pytest.mark.parametrize("padding", view.PADDINGS)
def test_a_still_clip_does_not_reveal_its_length(recipe, padding):
    recipe.data.update(padding=padding, still=True)
    long = drawn_clip(30)
    short = dataclasses.replace(
        long, landmarks=long.landmarks[:9], depth=long.depth[:9], pixels=long.pixels[:9], frames=long.frames[:9]
    )
    batch = augment.for_evaluation(stacked(recipe, short, long), sized(recipe, 35).model)
    for name in ("frames", "trajectories", "index_t"):
        np.testing.assert_array_equal(getattr(batch, name)[0], getattr(batch, name)[1])


def test_options_reach_the_training_sample(recipe):
    clip = drawn_clip(45)
    recipe.data.update(padding="zero", frame_choice="consecutive")
    inputs = pipeline.Sampler(recipe).train(0, clip).inputs
    np.testing.assert_array_equal(inputs.trajectories[45:], 0)
    assert inputs.frames_present.all()
    start = next(i for i in range(30) if np.array_equal(inputs.frames[0], clip.frames[i]))
    np.testing.assert_array_equal(inputs.frames, clip.frames[start : start + 16])
    recipe.data.padding = "loop"
    recipe.landmarks.normalise = "similarity"
    fitted = pipeline.Sampler(recipe).test(clip).inputs
    assert fitted.frames_present is None
    whole = trajectories.trajectory(clip, "xyrgb", normalise="similarity")
    np.testing.assert_array_equal(fitted.trajectories, whole[np.arange(64) % 45])
    recipe.landmarks.update(normalise="nose", frontalise=True)
    turned = pipeline.Sampler(recipe).test(clip).inputs.trajectories
    np.testing.assert_array_equal(turned[:45], trajectories.trajectory(clip, "xyrgb", frontalise=True))


# --- mirrors and reversal ------------------------------------------------------------------------------------------


# For each of the 106 landmarks of a mirrored face, its index before: from the names, not from ``landmarks.MIRROR``.
SIDES = np.array([landmarks.FACEPP_106.index(other_side(name)) for name in landmarks.FACEPP_106])


def photographed_in_a_mirror(clip: clips.Clip) -> clips.Clip:
    """The clip with flipped images, their landmarks, and the colours under them."""
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
@pytest.mark.parametrize("read", channels.STORED)
def test_a_mirrored_trajectory_is_that_of_flipped_images(read, normalise, frontalise):
    clip = with_colours(drawn_clip(9, side=256))
    flipped = trajectories.trajectory(photographed_in_a_mirror(clip), read, normalise, frontalise)
    straight = trajectories.trajectory(clip, read, normalise, frontalise)
    np.testing.assert_allclose(trajectories.mirror(straight), flipped, atol=1e-3)
    assert np.abs(straight - flipped).max() > 3
    np.testing.assert_array_equal(trajectories.mirror(trajectories.mirror(straight)), straight)


@pytest.fixture
def both():
    rng = np.random.default_rng(0)
    return Inputs(
        frames=rng.integers(0, 256, (64, 3, 8, 8, 3)).astype(np.uint8),
        trajectories=rng.normal(size=(64, 6, 63, 5)).astype(np.float32),
        index_t=rng.normal(size=(64, 6)).astype(np.float32),
    )


def found(changed: np.ndarray, plain: np.ndarray, change, atol: float = 1e-5) -> list[bool]:
    """Whether each clip was changed; a clip must be either unchanged or changed completely."""
    is_changed = [np.allclose(a, change(b), atol=atol) for a, b in zip(changed, plain, strict=True)]
    is_plain = [np.allclose(a, b, atol=atol) for a, b in zip(changed, plain, strict=True)]
    assert all(a != b for a, b in zip(is_changed, is_plain, strict=True))
    return is_changed


@pytest.mark.parametrize("consistent", [False, True])
def test_flip_trajectory_mirrors_the_trajectories_of_flipped_clips(recipe, both, consistent):
    recipe.augment.update(crop=False, flip=0.5, reverse_time=0.0, flip_trajectory=consistent)
    out = augment.for_training(both, sized(recipe, 8), jax.random.key(0))
    plain = np.asarray(augment.normalise(both.frames))
    flipped = found(out.frames, plain, lambda frames: frames[:, :, ::-1])
    assert 16 < sum(flipped) < 48
    if consistent:
        assert found(out.trajectories, both.trajectories, trajectories.mirror) == flipped
        alone = Inputs(trajectories=both.trajectories)
        out = augment.for_training(alone, sized(recipe, 8), jax.random.key(0))
        assert found(out.trajectories, both.trajectories, trajectories.mirror) == flipped
    else:
        np.testing.assert_array_equal(out.trajectories, both.trajectories)


@pytest.mark.parametrize("consistent", [False, True])
def test_reverse_frames_reverses_the_frames_of_reversed_clips(recipe, both, consistent):
    recipe.augment.update(crop=False, flip=0.0, reverse_time=0.5, reverse_frames=consistent)
    out = augment.for_training(both, sized(recipe, 8), jax.random.key(0))
    plain = np.asarray(augment.normalise(both.frames))
    reversed_ = found(out.trajectories, both.trajectories, lambda trajectory: trajectory[::-1])
    assert 16 < sum(reversed_) < 48
    np.testing.assert_array_equal(out.index_t, both.index_t)
    if consistent:
        assert found(out.frames, plain, lambda frames: frames[::-1]) == reversed_
    else:
        np.testing.assert_allclose(out.frames, plain, atol=1e-5)


def test_flips_and_reversals_are_drawn_independently(recipe, both):
    recipe.augment.update(crop=False, flip_trajectory=True, reverse_frames=True)
    out = augment.for_training(both, sized(recipe, 8), jax.random.key(0))
    seen = set()
    for i in range(64):
        for flip, reverse in itertools.product((1, -1), repeat=2):
            frames = np.asarray(augment.normalise(both.frames[i]))[::reverse, :, ::flip]
            trajectory = both.trajectories[i][::reverse]
            if np.allclose(out.frames[i], frames, atol=1e-5):
                expected = trajectories.mirror(trajectory) if flip < 0 else trajectory
                np.testing.assert_allclose(out.trajectories[i], expected, atol=1e-6)
                seen.add((flip, reverse))
    assert len(seen) == 4


def test_padding_is_reversed_with_its_frames(recipe, both):
    recipe.augment.update(crop=False, flip=0.0, reverse_time=1.0, reverse_frames=True)
    both = both.replace(frames_present=np.tile(np.arange(3) < 2, (64, 1)))
    out = augment.for_training(both, sized(recipe, 8), jax.random.key(0))
    assert out.frames_present is None
    np.testing.assert_array_equal(np.all(out.frames == 0, axis=(2, 3, 4)), np.tile([True, False, False], (64, 1)))


def test_augmentation_of_a_clip_does_not_depend_on_its_batch(recipe, both):
    recipe.augment.update(flip_trajectory=True, reverse_frames=True, warp=0.3, noise=0.01, landmark_dropout=0.1)
    names = "frames", "trajectories"
    other = both.replace(
        **{name: np.concatenate([getattr(both, name)[:32], getattr(both, name)[32:][::-1]]) for name in names}
    )
    out = [augment.for_training(batch, sized(recipe, 7), jax.random.key(5)) for batch in (both, other)]
    for one, two in ((getattr(batch, name) for batch in out) for name in names):
        np.testing.assert_array_equal(one[:32], two[:32])
        assert np.any(one[32:] != two[32:])


# --- pace, noise and hidden landmarks ------------------------------------------------------------------------------


def only(recipe, **options):
    """The recipe with no other augmentation of trajectories than these."""
    recipe.augment.update(crop=False, flip=0.0, reverse_time=0.0, **options)
    return sized(recipe, 8)


@pytest.mark.parametrize("n", [40, 200])
@pytest.mark.parametrize("padding", view.PADDINGS)
def test_warp_changes_the_pace_within_a_clip_and_neither_its_ends_nor_its_padding(recipe, padding, n):
    """Each frame of the clip shows its number from 1, so the outcome shows which moments are seen."""
    recipe.data.padding = padding
    taken = View.of(recipe, n)
    whole = np.broadcast_to(np.arange(1.0, n + 1, dtype=np.float32)[:, None, None], (n, 63, 2))
    plain = view.extended(whole, 64, padding, "xy")[taken.numbers]
    inputs = Inputs(
        trajectories=np.tile(plain, (64, 1, 1, 1)),
        index_t=np.tile(view.index_t(taken.numbers, 64), (64, 1)),
        seconds=np.full((64, 64), 0.1, np.float32),
    )
    out = augment.for_training(inputs, only(recipe, warp=0.5), jax.random.key(0))
    np.testing.assert_array_equal(out.index_t, inputs.index_t)
    moments, before = np.asarray(out.trajectories)[:, :, 0, 0], plain[:, 0, 0]
    shown = int(np.argmax(before)) + 1  # places until the clip's last frame
    np.testing.assert_allclose(moments[:, [0, shown - 1]], np.tile(before[[0, shown - 1]], (64, 1)), rtol=1e-5)
    pace = np.diff(moments[:, :shown]) / np.diff(before[:shown])
    assert 0.45 < pace.min() < 0.7
    assert 1.3 < pace.max() < 1.55
    assert len(np.unique(pace.max(axis=1).round(3))) > 32  # each clip in its own way
    if view.PADDINGS[padding].repeats_numbers:
        np.testing.assert_array_equal(moments, moments[:, taken.numbers - taken.numbers[0]])
    else:
        np.testing.assert_array_equal(moments[:, shown:], np.tile(before[shown:], (64, 1)))


def test_noise_moves_landmarks_and_neither_colours_nor_blanks(recipe, both):
    plain = 100 * both.trajectories
    plain[:, 4:] = 0
    out = augment.for_training(both.replace(trajectories=plain), only(recipe, noise=0.1), jax.random.key(0))
    np.testing.assert_array_equal(out.trajectories[..., 2:], plain[..., 2:])
    np.testing.assert_array_equal(out.trajectories[:, 4:], 0)
    left, right = (plain[:, :4, landmarks.SLOT_NAMES.index(f"{side}_eye_pupil"), :2] for side in ("left", "right"))
    unit = np.linalg.norm(left - right, axis=-1).mean(axis=1)
    spread = np.std(out.trajectories[:, :4, :, :2] - plain[:, :4, :, :2], axis=(1, 2, 3)) / unit
    assert 0 < spread.min() < 0.02
    assert 0.08 < spread.max() < 0.11


@pytest.mark.parametrize("option", ["xyrgb", "energy"])
def test_landmark_dropout_hides_whole_landmarks_of_the_encoders_channels(recipe, both, option):
    recipe.model.trajectory.channels = option
    values = np.tile(both.trajectories, (1, 4, 1, 1))[:, :16]
    inputs = both.replace(trajectories=values, index_t=np.zeros((64, 16)), seconds=np.full((64, 16), 0.1, np.float32))
    plain = augment.for_training(inputs, only(recipe), jax.random.key(0)).trajectories
    out = augment.for_training(inputs, only(recipe, landmark_dropout=0.25), jax.random.key(0)).trajectories
    hidden = np.all(out == 0, axis=(1, 3))
    np.testing.assert_array_equal(out, np.where(hidden[:, None, :, None], 0, plain))
    assert 0.22 < hidden.mean() < 0.28
    assert len(np.unique(hidden, axis=0)) == 64


def test_other_random_draws_stay_the_same_with_these_options(recipe, both):
    both = both.replace(index_t=np.tile(view.index_t(np.arange(6), 6), (64, 1)))
    recipe.augment.update(flip_trajectory=True, reverse_frames=True)
    plain = augment.for_training(both, sized(recipe, 7), jax.random.key(0))
    recipe.augment.update(warp=1e-6, noise=1e-6)
    out = augment.for_training(both, sized(recipe, 7), jax.random.key(0))
    np.testing.assert_array_equal(out.frames, plain.frames)
    np.testing.assert_allclose(out.trajectories, plain.trajectories, atol=1e-4)
    recipe.augment.landmark_dropout = 0.5
    out = augment.for_training(both, sized(recipe, 7), jax.random.key(0))
    np.testing.assert_array_equal(out.frames, plain.frames)
