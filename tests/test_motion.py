"""Motion as an input of the trajectory stream: what its channels measure, and what they do not depend on."""

import dataclasses

import jax
import numpy as np
import pytest

from tests import tiny
from tests.raises import user_error
from tramp_jax import channels
from tramp_jax import config as options
from tramp_jax.batches import augment, pipeline
from tramp_jax.data import landmarks
from tramp_jax.models import build_model
from tramp_jax.models.inputs import Inputs
from tramp_jax.synthetic.faces import SyntheticFaces

EVERYTHING = "xyrgb+speed+energy+range+tremor+asymmetry"


LOWER_LIP = slice(5 * landmarks.GROUP_SIZE, 6 * landmarks.GROUP_SIZE)


def configured(option=EVERYTHING, **data):
    config = tiny.get_config().unlock()
    config.data.update(data)
    config.model.trajectory.update(channels=option, input_scale=(1.0,), patch=1)
    config.model.streams = "trajectory"
    return config


@pytest.fixture(scope="module")
def clip():
    source = SyntheticFaces(4, 2, seed=5)
    return next(source[i] for i, info in enumerate(source.infos) if info.num_frames >= 66)


def cut(clip, n):
    return dataclasses.replace(clip, landmarks=clip.landmarks[:n], pixels=clip.pixels[:n], frames=clip.frames[:n])


def read(clip, config) -> dict[str, np.ndarray]:
    """Each channel (T, 63) that the encoder reads of a clip in evaluation."""
    inputs = pipeline.stacked([pipeline.Sampler(config).test(clip).inputs])
    values = np.asarray(augment.for_evaluation(inputs, config.model).trajectories)[0]
    names = channels.names(config.model.trajectory.channels)
    assert values.shape[-1] == len(names)
    return {name: values[..., i] for i, name in enumerate(names)}


def test_energies_are_those_of_their_definition(clip):
    found = read(cut(clip, 64), configured())
    points = landmarks.select(clip.landmarks, clip.layout) - landmarks.nose_tip(clip.landmarks, clip.layout)
    points = points[:64].astype(np.float64)
    left, right = (points[:, landmarks.SLOT_NAMES.index(f"{side}_eye_pupil")] for side in ("left", "right"))
    points /= np.linalg.norm(left - right, axis=-1).mean()
    speed = np.diff(points, axis=0, prepend=points[:1]) * clip.fps
    window = slice(16, 24)
    expected = 0.5 * np.log(((speed[window] ** 2).mean(0) + 0.04**2) / 0.2**2)
    away = points[window] - points[window].mean(0)
    expected_range = 0.5 * np.log(((away**2).mean(0) + 0.008**2) / 0.05**2)
    for i, axis in enumerate("xy"):
        np.testing.assert_allclose(found[f"speed_{axis}"], speed[..., i], atol=2e-3)
        np.testing.assert_allclose(found[f"speed_energy_{axis}"][16:24], np.tile(expected[:, i], (8, 1)), atol=1e-3)
        np.testing.assert_allclose(
            found[f"range_energy_{axis}"][16:24], np.tile(expected_range[:, i], (8, 1)), atol=1e-3
        )
        whole = points[1:, :, i].var(axis=0)  # the first frame has no predecessor
        np.testing.assert_allclose(
            found[f"range_{axis}"], np.tile(0.5 * np.log((whole + 0.008**2) / 0.05**2), (64, 1)), atol=1e-3
        )


def test_neither_the_size_of_the_face_nor_the_frame_rate_matters(clip):
    config = configured("speed+energy+range+asymmetry")
    slow = read(clip, config)
    large = read(dataclasses.replace(clip, landmarks=clip.landmarks * 1.7), config)
    for name, values in slow.items():
        np.testing.assert_allclose(values, large[name], atol=2e-3, err_msg=name)
    twice = dataclasses.replace(clip, fps=clip.fps * 2)
    np.testing.assert_allclose(read(twice, config)["speed_y"], 2 * slow["speed_y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(read(twice, config)["range_energy_y"], slow["range_energy_y"])


def test_a_still_face_has_the_least_energy_and_no_speed(clip):
    found = read(clip, configured("speed+energy+range+tremor", still=True))
    assert not np.any(found["speed_x"])
    np.testing.assert_allclose(found["speed_energy_x"], np.log(0.04 / 0.2), rtol=1e-5)
    for name in ("range_energy_y", "range_y"):
        np.testing.assert_allclose(found[name], np.log(0.008 / 0.05), rtol=1e-5)
    np.testing.assert_allclose(found["tremor_x"], np.log(0.002 / 0.005), rtol=1e-5)


def trembling(clip, hertz, frames, fps):
    """A clip of a still face whose lower lip swings sideways by 3% of the pupils' distance."""
    points = np.repeat(clip.landmarks[:1], frames, axis=0)
    slots = landmarks.layout_of(points, clip.layout).slots
    left, right = (landmarks.select(points, clip.layout)[0, slot] for slot in landmarks.PUPILS)
    wave = 0.03 * np.linalg.norm(left - right) * np.sin(2 * np.pi * hertz * np.arange(frames) / fps)
    points[:, slots[LOWER_LIP], 0] += wave[:, None]
    return dataclasses.replace(cut(clip, frames), landmarks=points, fps=fps)


def tremor(clip, padding="reflect"):
    """Root mean square amplitudes (63, 2) in x and y, in pupil distances."""
    found = read(clip, configured("tremor", padding=padding))
    logs = np.stack([found["tremor_x"], found["tremor_y"]], axis=-1)
    np.testing.assert_array_equal(logs, np.broadcast_to(logs[:1], logs.shape))
    return np.sqrt(np.maximum((0.005 * np.exp(logs[0])) ** 2 - 0.002**2, 0))


@pytest.mark.parametrize("padding", ["loop", "zero", "repeat", "reflect"])
@pytest.mark.parametrize(("frames", "fps"), [(64, 30.0), (64, 12.5), (40, 25.0)])
def test_tremor_is_the_amplitude_from_4_to_6_hz(clip, padding, frames, fps):
    expected = 0.03 / np.sqrt(2)
    for hertz in (4.5, 5.5, 5.0):
        found = tremor(trembling(clip, hertz, frames, fps), padding)
        np.testing.assert_allclose(found[LOWER_LIP, 0], expected, rtol=0.2)
    assert np.abs(found[LOWER_LIP, 1]).max() < 0.02 * expected
    assert np.delete(found, LOWER_LIP, axis=0)[:45].max() < 0.02 * expected
    for hertz in (1.0, 2.0, 10.0):
        if hertz < fps / 2:
            assert tremor(trembling(clip, hertz, frames, fps), padding)[LOWER_LIP].max() < 0.15 * expected


def test_a_tremor_that_the_frame_rate_cannot_show_is_not_measured(clip):
    assert tremor(trembling(clip, 1.0, 64, 7.0)).max() == 0


@pytest.mark.parametrize("padding", ["loop", "zero", "repeat", "reflect"])
def test_padding_adds_no_motion(clip, padding):
    """The jump where a clip starts again, or where blanks begin, is not a movement of the face."""
    short = cut(clip, 30)
    whole = read(cut(clip, 64), configured("speed"))
    padded = read(short, configured("speed+range", padding=padding))
    for axis in "xy":
        np.testing.assert_allclose(padded[f"speed_{axis}"][:30], whole[f"speed_{axis}"][:30], atol=0.02)
        assert np.abs(padded[f"speed_{axis}"]).max() <= np.abs(whole[f"speed_{axis}"][:30]).max() + 0.02
    if padding in ("zero", "repeat"):
        assert not np.any(padded["speed_x"][30:])
    if padding != "repeat":  # in which the last place counts more often
        points = landmarks.select(short.landmarks, short.layout) - landmarks.nose_tip(short.landmarks, short.layout)
        left, right = (points[:, landmarks.SLOT_NAMES.index(f"{side}_eye_pupil")] for side in ("left", "right"))
        spread = np.sqrt((points / np.linalg.norm(left - right, axis=-1).mean()).var(axis=0) + 0.008**2) / 0.05
        assert np.abs(np.exp(padded["range_y"][0]) / spread[:, 1] - 1).max() < 0.1


def test_a_mirrored_clip_has_mirrored_channels(clip):
    config = configured()
    inputs = pipeline.stacked([pipeline.Sampler(config).test(clip).inputs])
    mirrored = inputs.replace(trajectories=augment.mirror(inputs.trajectories))
    names = channels.names(EVERYTHING)
    one, other = (np.asarray(augment.for_evaluation(x, config.model).trajectories)[0] for x in (inputs, mirrored))
    for i, name in enumerate(names):
        sign = -1 if name in ("x", "speed_x", "asymmetry_x") else 1
        np.testing.assert_allclose(other[:, landmarks.MIRROR, i], sign * one[..., i], atol=1e-4, err_msg=name)


def test_a_symmetric_face_has_no_asymmetry(clip):
    config = configured("asymmetry")
    inputs = pipeline.stacked([pipeline.Sampler(config).test(clip).inputs])
    even = inputs.replace(trajectories=(inputs.trajectories + augment.mirror(inputs.trajectories)) / 2)
    assert np.abs(augment.for_evaluation(even, config.model).trajectories).max() < 1e-3
    assert np.abs(augment.for_evaluation(inputs, config.model).trajectories).max() > 0.05


def test_a_reversed_clip_moves_backwards(clip):
    config = configured("speed+energy")
    config.augment.update(flip=0.0, reverse_time=1.0)
    short = cut(clip, 40)  # which starts again at place 40
    inputs = pipeline.stacked([pipeline.Sampler(config).test(short).inputs])
    forwards = np.asarray(augment.for_evaluation(inputs, config.model).trajectories)[0]
    backwards = np.asarray(augment.for_training(inputs, config, jax.random.key(0)).trajectories)[0]
    np.testing.assert_allclose(backwards[1:, :, :2], -forwards[:0:-1, :, :2], atol=1e-5)
    assert not np.any(backwards[24, :, :2])  # the jump, which was at place 40
    np.testing.assert_allclose(backwards[8:16, :, 4:], forwards[48:56, :, 4:], atol=1e-4)


def test_patches_are_means(clip):
    whole, config = read(clip, configured("xy+energy")), configured("xy+energy")
    config.model.trajectory.patch = 4
    inputs = pipeline.stacked([pipeline.Sampler(config).test(clip).inputs])
    found = augment.for_evaluation(inputs, config.model)
    assert found.trajectories.shape == (1, 16, 63, 6)
    np.testing.assert_allclose(found.trajectories[0, :, :, 0], whole["x"].reshape(16, 4, 63).mean(1), atol=1e-4)
    np.testing.assert_allclose(found.index_t[0], inputs.index_t[0].reshape(16, 4).mean(1), atol=1e-6)
    assert found.seconds is None


@pytest.mark.parametrize("option", ["xyrgb", "xy", "rgb"])
def test_published_channels_are_read_as_they_are(clip, option):
    config = configured(option)
    inputs = pipeline.stacked([pipeline.Sampler(config).test(clip).inputs])
    assert inputs.seconds is None
    assert augment.for_evaluation(inputs, config.model).trajectories is inputs.trajectories
    assert isinstance(inputs, Inputs)


def test_channels_in_another_order(clip):
    one, other = read(clip, configured("rgb+xy")), read(clip, configured("xyrgb"))
    assert list(one) == list("rgbxy")
    for name in "xyrgb":
        np.testing.assert_array_equal(one[name], other[name])


def test_unknown_channels_and_unfitting_patches_are_refused():
    for wrong in ("xy+energi", "xyz", "", "xy energy"):
        config = configured(wrong)
        with user_error("bad_option", "model.trajectory.channels", "energy"):
            options.check(config)
    config = configured()
    config.model.trajectory.patch = 3
    with user_error("bad_option", "model.trajectory.patch", 3):
        build_model(config.model)
