"""Weights adapted to other image sizes, lengths and channels, or for one encoder only; and the start of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from configs import ravdess
from convert_weights.adapt import adapt, format_rows, initialise, resample
from convert_weights.convert import flattened, nested, target_shapes, to_variables
from convert_weights.layouts import TRANSFORMS
from convert_weights.store import LoadedCheckpoint
from tests.raises import user_error
from tests.state_dicts import random_state_dict, small, write
from tramp_jax.models.skateformer import SkateFormer

STEM = ("params", "trajectory_encoder", "stem_0", "kernel")
POSITIONS = ("params", "rgb_encoder", "s_former", "pos_embedding")
TABLES = [("params", "trajectory_encoder", "stage_1_block_0", f"attention_{i}", "bias", "table") for i in (3, 4)]


def loaded(kind, seed=0, **trajectory):
    """A checkpoint of a small model with changed options of the trajectory encoder."""
    config = small(kind)
    config.trajectory.update(trajectory)
    return LoadedCheckpoint(kind, to_variables(random_state_dict(config, seed), config), config, {"fresh": []})


def fresh(config):
    return nested({path: np.full(shape, 0.5, np.float32) for path, shape in target_shapes(config).items()})


# --- position embeddings -----------------------------------------------------------------------------------------


def test_positions_are_resampled_as_a_map():
    row, column = np.meshgrid(np.arange(7.0), np.arange(7.0), indexing="ij")
    channels = np.stack([row, 10 * column, np.ones_like(row)], axis=-1).reshape(1, 49, 3).astype(np.float32)
    resized = resample(channels, 14).reshape(14, 14, 3)
    assert resized.dtype == np.float32
    expected = (np.arange(14) + 0.5) / 2 - 0.5  # pixel centres
    inside = slice(4, 10)  # a cubic kernel reproduces a ramp where it does not meet the border
    np.testing.assert_allclose(resized[inside, inside, 0], np.tile(expected[inside, None], 6), atol=1e-5)
    np.testing.assert_allclose(resized[inside, inside, 1], np.tile(10 * expected[inside], (6, 1)), atol=1e-4)
    np.testing.assert_allclose(resized[..., 2], 1, atol=1e-6)


def test_published_112_pixels_into_224():
    theirs, target = small("former_dfer"), small("former_dfer")
    theirs.rgb.image_size, target.rgb.image_size = 112, 224
    source = LoadedCheckpoint("former_dfer", fresh(theirs), theirs, {"fresh": []})
    variables, rows, warnings = adapt(source, target, source="a.pth")
    assert flattened(variables)[POSITIONS].shape == (1, 196, 16)
    changed = [row for row in rows if row.status != "loaded"]
    assert [(row.path, row.status) for row in changed] == [("/".join(POSITIONS), "adapted")]
    assert changed[0].note == "7×7 positions resampled to 14×14 (bicubic, a = -0.5)"
    assert warnings == []


# --- tables of relative positions --------------------------------------------------------------------------------


def rows_by_distance(config, table):
    """The table row that a model of ``config`` reads for each distance in time."""
    M = config.trajectory.length // config.trajectory.patch // 8
    return {d: table[d + M - 1] for d in range(1 - M, M)}


@pytest.mark.parametrize("length", [64, 128])
def test_tables_keep_their_rows_or_their_distances(length):
    source = loaded("skateformer")
    target = small("skateformer")
    target.trajectory.length = length
    theirs = flattened(source.variables)
    released = flattened(adapt(source, target).variables)
    centred, rows, _ = adapt(source, target, table_rule="centred")
    centred = flattened(centred)
    for path in TABLES:
        np.testing.assert_array_equal(released[path], theirs[path])
        assert centred[path].shape == theirs[path].shape
        by_distance = rows_by_distance(source.model_config, theirs[path])
        for distance, row in rows_by_distance(target, centred[path]).items():
            np.testing.assert_array_equal(row, by_distance[distance])
    adapted = {row.path for row in rows if row.status == "adapted"}
    assert len(adapted) == 2 * 2  # of two types in each of two blocks; tables of local sets stay
    assert {"/".join(path) for path in TABLES} <= adapted


@pytest.mark.parametrize("patch", [1, 2])
def test_tables_of_a_longer_model_repeat_the_longest_distance_known(patch):
    source = loaded("skateformer", length=64 * patch, patch=patch)
    target = small("skateformer")  # T = 256
    target.trajectory.patch = patch
    table = flattened(adapt(source, target, table_rule="centred").variables)[TABLES[0]]
    by_distance = rows_by_distance(source.model_config, flattened(source.variables)[TABLES[0]])
    for distance, row in rows_by_distance(target, table).items():
        np.testing.assert_array_equal(row, by_distance[np.clip(distance, -7, 7)])


def test_tables_of_their_own_size():
    source = loaded("skateformer", length=64, table_frames=0)
    wide, long = small("skateformer"), small("skateformer")
    wide.trajectory.length = 64
    theirs = flattened(source.variables)[TABLES[0]]
    for rule in ("released", "centred"):  # the rows that are read are all there
        ours = flattened(adapt(source, wide, table_rule=rule).variables)[TABLES[0]]
        np.testing.assert_array_equal(ours[:15], theirs)
    with user_error("mismatch", "15 rows", 63, "centred"):
        adapt(source, long)
    with user_error("bad_option", "config.init.tables", "middle"):
        adapt(source, long, table_rule="middle")


# --- the stem ----------------------------------------------------------------------------------------------------


def apply_stem(config, params, trajectories):
    """The first three layers of the trajectory encoder, run by its own code; everything else outputs zero."""
    c = config.trajectory.copy_and_resolve_references().unlock()
    c.widths = ()
    encoder = SkateFormer(FrozenConfigDict(c), (), jnp.float32, remat=False)
    names = ("stem_0", "stem_1", "stem_2")
    own = {name: params[name] for name in names} | {"joint_embedding": np.zeros((c.embed_width, 63), np.float32)}
    return encoder.apply({"params": own}, trajectories, np.zeros(trajectories.shape[:2]), train=False)[0]


@pytest.mark.parametrize(("channels", "kept"), [("xy", (0, 1)), ("rgb", (2, 3, 4))])
@pytest.mark.parametrize("scale", [(1.0,), (0.25,)])
def test_selected_channels_act_as_if_the_others_were_zero(channels, kept, scale):
    source, target = loaded("skateformer"), small("skateformer")
    target.trajectory.update(channels=channels, stem_channels=5, input_scale=scale)
    variables, rows, _ = adapt(source, target)
    (row,) = [row for row in rows if row.status == "adapted"]
    assert row.path == "/".join(STEM)
    assert f"channels {channels} of xyrgb" in row.note
    x = np.random.default_rng(0).standard_normal((1, 64, 63, len(kept))).astype(np.float32)
    everything = np.zeros((1, 64, 63, 5), np.float32)
    everything[..., kept] = x
    theirs = apply_stem(source.model_config, source.variables["params"]["trajectory_encoder"], everything)
    ours = apply_stem(target, variables["params"]["trajectory_encoder"], x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_stem_that_would_lose_channels_is_refused_with_the_option_that_keeps_them():
    target = small("skateformer")
    target.trajectory.channels = "xy"
    with user_error("mismatch", "stem_channels=5"):
        adapt(loaded("skateformer"), target)
    target.trajectory.channels = "xyrgb"
    with user_error("mismatch", "channels xy", "b and g and r"):
        adapt(loaded("skateformer", channels="xy"), target)


# --- other differences -------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_listed():
    target = small("skateformer")
    target.head.num_classes = 3
    target.trajectory.blocks_per_stage = 2
    added = "params/trajectory_encoder/stage_0_block_1/norm_1/scale (32,)"
    with user_error("mismatch", "a.pth", "params/head/layer1/kernel", (32, 7), (32, 3), added):
        adapt(loaded("skateformer"), target, source="a.pth")
    with user_error("mismatch", added):
        adapt(loaded("skateformer", blocks_per_stage=2), small("skateformer"))
    with user_error("mismatch", "a.pth", "rgb_encoder", "init.rgb"):
        adapt(loaded("skateformer"), small("tramp_former"), "rgb", source="a.pth")


def test_a_differing_option_that_shapes_do_not_show_gives_a_warning():
    target = small("skateformer")
    target.trajectory.bias_order = "time"
    assert adapt(loaded("skateformer"), target, source="a.pth").warnings == [
        "a.pth: model.trajectory.bias_order is time, but the weights use tiled"
    ]


# --- the start of training ---------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """A headless trajectory encoder, a frame encoder with a head, and a whole model."""
    encoder = {n: x for n, x in random_state_dict(small("skateformer"), 1).items() if not n.startswith("head.")}
    return {
        "trajectory": write(tmp_path / "t.pth", encoder),
        "rgb": write(tmp_path / "r.pth", {"state_dict": random_state_dict(small("former_dfer"), 2)}),
        "all": write(tmp_path / "a.pth", {"model": random_state_dict(small("tramp_former"), 3)}),
    }


def test_two_encoders_into_the_whole_model(files):
    config = small("tramp_former")
    variables, rows = initialise(
        config, fresh(config), {"rgb": files["rgb"], "trajectory": files["trajectory"], "all": ""}
    )
    ours = flattened(variables)
    expected = flattened(to_variables(random_state_dict(small("skateformer"), 1), small("skateformer")))
    expected |= flattened(to_variables(random_state_dict(small("former_dfer"), 2), small("former_dfer")))
    status = {row.path: row for row in rows if row.status != "skipped"}
    assert status.keys() == {"/".join(path) for path in ours}
    for path, x in ours.items():
        encoder = path[1] in ("rgb_encoder", "trajectory_encoder")
        np.testing.assert_array_equal(x, expected[path] if encoder else 0.5, err_msg="/".join(path))
        assert status["/".join(path)].status == ("loaded" if encoder else "fresh")
    skipped = [(row.path, row.source) for row in rows if row.status == "skipped"]
    assert skipped == [(f"params/head/layer1/{leaf}", str(files["rgb"])) for leaf in ("bias", "kernel")]
    table = format_rows(rows).splitlines()
    assert table[0].split() == ["module", "arrays", "status", "source", "note"]
    arrays = str(sum(path[:2] == ("params", "fusion") for path in ours))
    assert any(line.split() == ["params/fusion", arrays, "fresh"] for line in table)


def test_an_encoder_goes_before_the_whole(files):
    config = small("tramp_former")
    variables, rows = initialise(config, fresh(config), {"all": files["all"], "rgb": files["rgb"]})
    whole = flattened(to_variables(random_state_dict(config, 3), config))
    frames = flattened(to_variables(random_state_dict(small("former_dfer"), 2), small("former_dfer")))
    for path, x in flattened(variables).items():
        np.testing.assert_array_equal(x, frames[path] if path[1] == "rgb_encoder" else whole[path])
    assert {row.status for row in rows} == {"loaded", "skipped"}
    sources = {row.source for row in rows if row.status == "loaded" and "/rgb_encoder/" in row.path}
    assert sources == {str(files["rgb"])}


def test_variables_keep_the_structure_that_training_has(files):
    config = small("tramp_former")
    before = fresh(config)
    after, _ = initialise(config, before, {"all": files["all"]}, "centred")
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), before)


@pytest.mark.parametrize("name", ["s_former.conv1.weight", "s_former.bn1.running_var"])
def test_training_does_not_start_from_values_that_are_not_finite(name, files, tmp_path, capsys):
    """Statistics of batches do not enter the loss, which stays finite with any of them."""
    tensors = random_state_dict(small("former_dfer"))
    tensors[name][0] = np.nan
    config = small("tramp_former")
    path = write(tmp_path / "n.pth", tensors)
    with user_error("not_finite", path, "rgb_encoder/s_former/"):
        initialise(config, fresh(config), {"rgb": path})
    assert capsys.readouterr().err == f"warning: {path}: not a finite number (NaN or infinity) in {name}\n"


def test_unknown_source_is_named():
    with user_error("unknown_option", "frames", "trajectory"):
        initialise(small("tramp_former"), {}, {"frames": "a.pth"})


def test_every_transform_is_undone_by_its_inverse():
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 6))
    shapes = {"linear": x[0, 0], "pointwise": x[..., :1, :1], "temporal": x[..., :1], "conv": x, "as is": x}
    assert shapes.keys() == TRANSFORMS.keys()
    for name, given in shapes.items():
        np.testing.assert_array_equal(TRANSFORMS[name].backward(TRANSFORMS[name].forward(given)), given)


def test_the_encoders_of_an_ensemble_start_those_of_another():
    theirs, ours = (ravdess.get_config(argument).model for argument in ("emotion", ""))
    assert ours.members == 3
    adapted = adapt(LoadedCheckpoint("run", fresh(theirs), theirs, {"fresh": []}), ours, "trajectory")
    taken = flattened(adapted.variables)
    assert taken.keys() == {path for path in target_shapes(ours) if "trajectory_encoder" in path}
    assert {row.status for row in adapted.rows if "head" in row.path} == {"skipped"}
