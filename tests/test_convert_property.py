"""Random small architectures come back unchanged; random damage is an error."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert_weights import load_checkpoint
from convert_weights.convert import flattened, to_variables
from convert_weights.export import to_state_dict
from convert_weights.layouts import COUNTER
from tests.state_dicts import assert_same, random_state_dict, small, write
from tramp_jax.config import base
from tramp_jax.errors import UserError

SIZES = st.sampled_from


@st.composite
def architectures(draw):
    """A ``model`` group. Sizes that shapes show are random, all other options have their published values."""
    model = base().model.copy_and_resolve_references()
    model.name = draw(SIZES(["skateformer", "former_dfer", "tramp_former"]))
    if model.name == "tramp_former":
        model.streams = draw(SIZES(["both", "rgb", "trajectory"]))
        model.head.hidden = tuple(draw(st.lists(SIZES([3, 8]), max_size=2)))
    else:
        model.head.hidden = ()
    model.head.num_classes = draw(SIZES([0, 7]))
    if model.name != "former_dfer" and model.streams != "rgb":
        _draw_trajectory(draw, model)
    if model.name != "skateformer" and model.streams != "trajectory":
        model.rgb.widths = tuple(draw(SIZES([8, 16])) for _ in range(4))
        model.rgb.image_size = draw(SIZES([16, 32, 48]))
        model.rgb.clip_length = draw(SIZES([4, 16]))
        model.rgb.num_frames = model.rgb.clip_length * (5 if model.name == "tramp_former" else 1)
        model.rgb.spatial_mlp_dim = draw(SIZES([8, 24]))
        model.rgb.temporal_mlp_dim = draw(SIZES([8, 24]))
        model.rgb.temporal_depth = draw(SIZES([1, 2]))
    if model.name == "tramp_former" and model.streams != "trajectory":
        model.fusion.width = model.trajectory.widths[-1] if model.streams == "both" else draw(SIZES([16, 32]))
    if model.name == "tramp_former" and model.streams == "both":
        model.fusion.depth = draw(SIZES([1, 2]))
        model.fusion.mlp_ratio = draw(SIZES([1, 4]))
    return model


def _draw_trajectory(draw, model):
    stages = draw(SIZES([1, 2, 3]))
    widths = [draw(SIZES([32, 64])) for _ in range(stages)]
    model.trajectory.update(widths=tuple(widths), embed_width=widths[0])
    model.trajectory.blocks_per_stage = draw(SIZES([1, 2]))
    model.trajectory.mlp_ratio = draw(SIZES([1, 3]))
    model.trajectory.channels = draw(SIZES(["xy", "rgb", "xyrgb"]))
    if draw(st.booleans()) and len(model.trajectory.channels) < 5:
        model.trajectory.stem_channels = 5
    if draw(st.booleans()):
        model.trajectory.update(table_frames=0, length=draw(SIZES([64, 128])))
    else:
        model.trajectory.length = 256 if model.name == "skateformer" else 128


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=architectures(), seed=st.integers(0, 9), prefix=SIZES(["", "module."]))
def test_state_dict_survives_the_round_trip(config, seed, prefix, tmp_path):
    tensors = random_state_dict(config, seed)
    path = write(tmp_path / "a.pth", {"model": {prefix + name: x for name, x in tensors.items()}})
    checkpoint = load_checkpoint(path)
    assert checkpoint.model_config.to_dict() == config.to_dict()
    assert_same(flattened(checkpoint.variables), flattened(to_variables(tensors, config)))
    assert_same(to_state_dict(checkpoint), tensors)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_shape_is_an_error_not_a_crash(data, tmp_path):
    kind = data.draw(SIZES(["skateformer", "former_dfer", "tramp_former"]))
    tensors = random_state_dict(small(kind))
    # Another shape of one of these may belong to another model.
    free = ("pos_embedding", "stem.0.weight")
    name = data.draw(SIZES(sorted(name for name in tensors if not name.endswith(free))))
    shape = data.draw(st.lists(st.integers(0, 70), max_size=4).map(tuple).filter(lambda s: s != tensors[name].shape))
    path = write(tmp_path / "a.pth", tensors | {name: np.broadcast_to(tensors[name].flat[0], shape)})
    if name.endswith(COUNTER) and np.prod(shape) == 1:
        assert load_checkpoint(path).kind == kind  # some versions of PyTorch saved counters of shape (1,)
        return
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
