"""Properties of the models that golden cases do not show."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from tests.golden.cases import skeleton_config
from tests.raises import user_error
from tramp_jax import config as defaults
from tramp_jax.models import abstract_variables, build_model, init_variables, input_shapes, layers, skateformer
from tramp_jax.models.former_dfer import scramble_as_released
from tramp_jax.models.layers import BatchNorm, Conv, TemporalConv, max_pool

BATCH = 3


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    shapes = input_shapes(tiny.get_config().model, BATCH)
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    times = np.broadcast_to(np.linspace(-1, 1, shapes["index_t"][1], dtype=np.float32), shapes["index_t"])
    return drawn | {"trajectories": 30 * drawn["trajectories"], "index_t": times}


@pytest.fixture(scope="module")
def model():
    return build_model(tiny.get_config().model)


@pytest.fixture(scope="module")
def score(model, tiny_variables):
    """The jitted model in evaluation mode: inputs -> (score, out)."""
    return jax.jit(lambda inputs: model.apply(tiny_variables, **inputs))


def test_outputs_have_their_names_and_shapes(score, inputs):
    result, out = score(inputs)
    assert result.shape == (BATCH,)
    assert out["trajectory_features"].shape == (BATCH, 32)
    assert out["subclip_features"].shape == (BATCH, 1, 16)
    assert out["rgb_features"].shape == (BATCH, 32)


@pytest.mark.parametrize("stream", ["frames", "trajectories", "index_t"])
def test_every_input_moves_the_score(score, inputs, stream):
    moved = inputs | {stream: inputs[stream] * 0.5 + 0.1}
    assert np.all(np.abs(score(moved)[0] - score(inputs)[0]) > 1e-6)


def test_shuffling_a_batch_permutes_the_scores(score, inputs):
    order = np.array([2, 0, 1])
    shuffled = {name: x[order] for name, x in inputs.items()}
    np.testing.assert_allclose(score(shuffled)[0], score(inputs)[0][order], rtol=1e-5)


def test_other_samples_do_not_move_a_score(score, inputs):
    padded = {name: np.concatenate([x[:1], np.zeros_like(x[1:])]) for name, x in inputs.items()}
    np.testing.assert_allclose(score(padded)[0][0], score(inputs)[0][0], rtol=1e-5)


def test_training_mode_draws_and_updates_statistics(model, tiny_variables, inputs):
    def train(key):
        return model.apply(tiny_variables, **inputs, train=True, rngs={"dropout": key}, mutable=["batch_stats"])

    train = jax.jit(train)
    (first, _), updated = train(jax.random.key(1))
    (again, _), _ = train(jax.random.key(1))
    (other, _), _ = train(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.abs(first - other) > 1e-6)
    same = jax.tree.map(np.array_equal, updated["batch_stats"], tiny_variables["batch_stats"])
    assert not any(jax.tree.leaves(same))


@pytest.mark.parametrize("streams", ["rgb", "trajectory"])
def test_one_stream_reads_one_input(config, inputs, streams):
    config.model.streams = streams
    shapes = input_shapes(config.model, BATCH)
    read = {name: inputs[name] if shape else None for name, shape in shapes.items()}
    assert (read["frames"] is None) == (streams == "trajectory")
    variables = init_variables(config.model, jax.random.key(0))
    assert ("rgb_encoder" in variables["params"]) == (streams == "rgb")
    result, out = jax.jit(lambda v, x: build_model(config.model).apply(v, **x))(variables, read)
    assert result.shape == (BATCH,)
    assert ("rgb_features" in out) == (streams == "rgb")
    assert ("trajectory_features" in out) == (streams == "trajectory")


def test_a_classification_head_gives_logits(config):
    config.model.update(streams="trajectory")
    config.model.head.num_classes = 4
    shapes = input_shapes(config.model, 2)
    abstract = [None if s is None else jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes.values()]
    (logits, _), _ = jax.eval_shape(build_model(config.model).init_with_output, jax.random.key(0), *abstract)
    assert logits.shape == (2, 4)


def _abstract_parameters(model_config):
    return abstract_variables(model_config)["params"]


def _count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_the_published_sizes():
    params = _abstract_parameters(defaults.base().model)
    assert round(_count(params) / 1e6, 2) == 25.17
    assert round(_count(params["trajectory_encoder"]) / 1e6, 2) == 4.56
    assert round(_count(params["rgb_encoder"]) / 1e6, 2) == 18.07


@pytest.mark.parametrize("length", [64, 128, 256])
@pytest.mark.parametrize("channels", ["xy", "rgb", "xyrgb"])
def test_every_published_length_and_channel_set_builds(length, channels):
    config = defaults.base().model
    config.trajectory.update(length=length, channels=channels)
    params = _abstract_parameters(config)["trajectory_encoder"]
    assert params["stem_0"]["kernel"].shape == (len(channels), 2 * len(channels))
    # One table for all lengths: a checkpoint of one fits the others.
    assert params["stage_0_block_0"]["attention_3"]["bias"]["table"].shape == (63, 4)


def test_own_size_tables():
    params = _abstract_parameters(skeleton_config())["trajectory_encoder"]
    assert params["stage_0_block_0"]["attention_3"]["bias"]["table"].shape == (15, 4)


@pytest.mark.parametrize(
    ("option", "value", "other"),
    [
        ("trajectory.length", 100, 64),
        ("trajectory.table_frames", 1, 2),
        ("trajectory.input_scale", (0.1, 0.2), "xyrgb"),
        ("trajectory.embed_width", 64, "model.trajectory.widths"),
        ("rgb.num_frames", 20, "model.rgb.clip_length=16"),
        ("rgb.widths", (8, 8, 15, 16), 15),
        ("rgb.widths", (16, 32, 64), "4 stages"),
        ("fusion.width", 48, "model.trajectory.widths"),
        ("trajectory.widths", (), "empty"),
        ("trajectory.neighbours", 8, "model.trajectory.num_points"),
    ],
)
def test_options_that_contradict_each_other_are_named(config, option, value, other):
    config.model.update_from_flattened_dict({option: value})
    with user_error("bad_option", f"model.{option}", other):
        build_model(config.model)


@pytest.mark.parametrize("index", range(4))
def test_attention_stays_within_its_sets(index, config):
    """The gradient of one token's output is nonzero exactly for the tokens of its set."""
    T, V, t0, v0 = 64, 63, 21, 31
    config.model.trajectory.patch = 1
    partition = skateformer.partitions(config.model.trajectory)[index]
    attention = skateformer.SkateAttention(partition, 0.0, "tiled")
    qkv = jax.random.normal(jax.random.key(0), (1, T, V, 12))
    variables = attention.init(jax.random.key(1), qkv, None)
    gradient = jax.grad(lambda x: attention.apply(variables, x, None)[0, t0, v0].sum())(qkv)
    touched = np.any(np.asarray(gradient[0]) != 0, axis=-1)
    t, v = np.meshgrid(np.arange(T), np.arange(V), indexing="ij")
    same_time = t // 8 == t0 // 8 if index < 2 else t % 8 == t0 % 8
    same_joints = v // 9 == v0 // 9 if index % 2 == 0 else v % 9 == v0 % 9
    np.testing.assert_array_equal(touched, same_time & same_joints)


def test_table_order_changes_only_neighbour_sets(config):
    config.model.trajectory.patch = 1
    for i, partition in enumerate(skateformer.partitions(config.model.trajectory)):
        bias = {}
        for order in ("tiled", "time"):
            module = skateformer.RelativePositionBias(partition, order)
            bias[order] = module.apply(module.init(jax.random.key(0)))
        assert bias["time"].shape == (4, 8, partition.joints, 8, partition.joints)
        assert np.array_equal(bias["time"], bias["tiled"]) == (i % 2 == 1)
        if i % 2 == 0:  # "time": depends only on the distance in time
            np.testing.assert_array_equal(bias["time"][:, 0, 0, 3], bias["time"][:, 4, 8, 7])


def test_released_frame_layout_mixes_frames_of_one_colour():
    frames = np.arange(2 * 80 * 3, dtype=np.float32).reshape(2, 80, 1, 1, 3)  # value = 3 * frame + colour (+ 240)
    image = np.asarray(scramble_as_released(frames))[:, :, 0, 0]
    np.testing.assert_array_equal(image[0, 0], [0, 3, 6])  # red of frames 0, 1, 2
    np.testing.assert_array_equal(image[0, 26], [78 * 3, 79 * 3, 1])  # red of 78, 79, green of 0
    np.testing.assert_array_equal(image[1] - 240, image[0])  # samples are not mixed


def test_batch_norm_follows_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(1, 3, (4, 5, 6)).astype(np.float32)
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x, False)
    theirs = torch.nn.BatchNorm1d(6)
    for _ in range(2):
        ours, updated = layer.apply(variables, x, True, mutable=["batch_stats"])
        variables = variables | updated
        expected = theirs(torch.from_numpy(x.reshape(20, 6)))
    np.testing.assert_allclose(ours.reshape(20, 6), expected.detach(), atol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["var"], theirs.running_var, rtol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], theirs.running_mean, rtol=1e-5)


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 8), (2, 2)])
def test_temporal_conv_follows_torch(stride, groups):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 15, 3, 16)).astype(np.float32)
    layer = TemporalConv(24, stride=stride, groups=groups)
    variables = layer.init(jax.random.key(0), x)
    theirs = torch.nn.Conv2d(16, 24, (7, 1), (stride, 1), (3, 0), groups=groups)
    kernel = np.asarray(variables["params"]["kernel"])
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(kernel.transpose(2, 1, 0)[..., None].copy()))
        theirs.bias.zero_()
        expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


def test_stochastic_depth_drops_the_stated_share_and_keeps_the_mean():
    rates = [0.0, 0.25]
    paths = np.asarray(skateformer.draw_paths(jax.random.key(0), rates, 4000))
    np.testing.assert_array_equal(paths[0], 1.0)
    for branch in paths[1]:
        assert set(np.unique(branch)) == {0.0, np.float32(1 / 0.75)}
        assert abs(branch.mean() - 1) < 0.05
    assert 0.3 < np.mean(paths[1, 0] != paths[1, 1]) < 0.45  # 2 × 0.25 × 0.75: each branch has its own draw


def test_a_dropped_branch_leaves_its_clip_unchanged(config):
    """Clip 0 loses both branches. Clip 1 keeps the first branch, once with factor 1 and once with factor 2."""
    encoder = build_model(config.model).trajectory_encoder
    block = skateformer.SkateFormerBlock(encoder.config, encoder.partitions, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (2, 64, 63, 32))
    no_keys = (None,) * 4
    apply = jax.jit(lambda variables, paths: block.apply(variables, x, skateformer.Draws(no_keys, paths)))
    variables = jax.jit(block.init)(jax.random.key(1), x, skateformer.Draws(no_keys, None))
    once, twice = (apply(variables, jnp.array([[0.0, factor], [0.0, 0.0]])) for factor in (1.0, 2.0))
    np.testing.assert_array_equal(once[0], x[0])
    assert np.abs(once[1] - x[1]).max() > 1e-3
    np.testing.assert_allclose(twice[1] - x[1], 2 * (once[1] - x[1]), atol=1e-5)
    np.testing.assert_allclose(apply(variables, jnp.ones((2, 2))), apply(variables, None), atol=1e-6)


def test_attention_dropout_drops_the_stated_share(config):
    """With equal values, dropout on the weights scatters the outputs around them without moving the mean."""
    partition = skateformer.partitions(config.model.trajectory)[0]
    attention = skateformer.SkateAttention(partition, 0.5, "tiled")
    qkv = jnp.concatenate([jnp.zeros((4, 64, 63, 8)), jnp.ones((4, 64, 63, 4))], axis=-1)
    variables = jax.tree.map(jnp.zeros_like, attention.init(jax.random.key(0), qkv, None))
    keys = jax.random.split(jax.random.key(1), partition.sets(64, 63))
    y = np.asarray(attention.apply(variables, qkv, keys))
    # 72 weights of 1/72, each 0 or doubled: mean 1, variance 1/72.
    assert abs(y.mean() - 1) < 0.01
    assert abs(y.var() * 72 - 1) < 0.1
    np.testing.assert_allclose(attention.apply(variables, qkv, None), 1.0, rtol=1e-5)


def test_a_looped_clip_has_the_same_score_from_its_distinct_frames(model, score, tiny_variables, inputs):
    index = np.array([[0, 1, 2, 3] * 4, [3, 2, 1, 0] * 4, [0] * 16])
    distinct = inputs["frames"][:, :4]
    looped = {**inputs, "frames": np.stack([clip[i] for clip, i in zip(distinct, index, strict=True)])}
    whole, out = score(looped)
    few, few_out = score({**inputs, "frames": distinct, "frame_index": index})
    # Another batch size may sum a convolution in another order: equal up to the last digits of float32.
    np.testing.assert_allclose(few_out["frame_features"], out["frame_features"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(few, whole, rtol=1e-5)
    shared, _ = score({**inputs, "frames": distinct[:1], "frame_index": index})
    assert float(shared[0]) == pytest.approx(float(whole[0]), rel=1e-5)
    assert abs(shared[1] - whole[1]) > 1e-4


def test_scrambled_frames_need_all_frames(config, inputs):
    config.model.rgb.scrambled_frames = True
    with pytest.raises(AssertionError):
        jax.eval_shape(
            build_model(config.model).init, jax.random.key(0), **inputs, frame_index=np.zeros((BATCH, 16), int)
        )


def test_a_single_key_gives_no_gradient_to_query_and_key_maps(config):
    """They are not even computed. With several keys they are."""
    from tramp_jax.models.fusion import CrossAttention

    rng = np.random.default_rng(0)
    attention, x = CrossAttention(heads=2), rng.normal(size=(2, 3, 8)).astype(np.float32)
    one, several = (rng.normal(size=(2, k, 8)).astype(np.float32) for k in (1, 4))
    variables = attention.init(jax.random.key(0), x, one)
    assert set(variables["params"]) == {"q", "k", "v", "proj"}
    repeated = attention.apply(variables, x, np.repeat(one, 2, axis=1))  # two equal keys share the weight
    np.testing.assert_allclose(attention.apply(variables, x, one), repeated, rtol=1e-5, atol=1e-6)
    for keys, moves in ((one, False), (several, True)):
        gradient = jax.grad(lambda v, keys=keys: attention.apply(v, x, keys).sum())(variables)["params"]
        assert bool(np.any(gradient["q"]["kernel"])) is moves
        assert np.any(gradient["v"]["kernel"])


@pytest.mark.parametrize("streams", ["rgb", "trajectory"])
def test_bfloat16_stays_near_float32_and_keeps_its_parameters_in_float32(config, inputs, streams):
    config.model.streams = streams
    exact = build_model(config.model)
    config.model.precision = "bfloat16"
    coarse = build_model(config.model)
    variables = init_variables(config.model, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}
    (reference, _), (result, out) = (
        jax.jit(lambda v, i, model=model: model.apply(v, **i))(variables, inputs) for model in (exact, coarse)
    )
    feature = out[f"{streams}_features" if streams == "trajectory" else "rgb_features"]
    assert result.dtype == feature.dtype == np.dtype("float32")
    inner = out["trajectory_stage_0"] if streams == "trajectory" else out["frame_features"]
    assert inner.dtype == jnp.bfloat16
    # Eight bits of mantissa: an error of 2^-8 in a product, and less in a mean.
    assert 0 < np.max(np.abs(result - reference)) < 0.02 * max(1.0, float(np.max(np.abs(reference))))


@pytest.mark.slow
def test_gradients_in_bfloat16_are_near_those_in_float32(config, inputs):
    """Trajectory stream only: gradients of untrained frame encoders are ill-conditioned, see docs/performance.md."""
    config.model.streams = "trajectory"
    variables, found = init_variables(config.model, jax.random.key(0)), []
    for precision in ("float32", "bfloat16"):
        config.model.precision = precision
        model = build_model(config.model)

        def loss(params, model=model):
            keys = {"dropout": jax.random.key(1)}
            (score, _), _ = model.apply(
                {**variables, "params": params}, **inputs, train=True, mutable="batch_stats", rngs=keys
            )
            return jnp.square(score - jnp.arange(len(score))).mean()

        value, gradients = jax.jit(jax.value_and_grad(loss))(variables["params"])
        assert {x.dtype for x in jax.tree.leaves(gradients)} == {np.dtype("float32")}
        found.append((float(value), np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradients)])))
    (exact, gradient), (coarse, near) = found
    assert exact != coarse
    assert coarse == pytest.approx(exact, rel=1e-2)
    assert np.linalg.norm(near - gradient) / np.linalg.norm(gradient) < 0.15


def test_recomputing_the_blocks_changes_no_gradient(config, inputs, optimised):
    config.model.streams = "rgb"
    frames = inputs["frames"]
    variables = init_variables(config.model, jax.random.key(0))
    gradients = []
    for remat in (False, True):
        config.model.remat = remat
        model = build_model(config.model)

        def loss(params, model=model):
            score, _ = model.apply(
                {**variables, "params": params}, frames, None, None, train=True, mutable="batch_stats"
            )[0]
            return jnp.square(score).sum()

        gradients.append(jax.jit(jax.grad(loss))(variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *gradients)
    lowered = jax.jit(jax.grad(loss)).lower(variables["params"]).as_text()
    assert "remat" in lowered or "optimization_barrier" in lowered


@pytest.mark.parametrize(("side", "size", "stride"), [(61, 7, 2), (28, 3, 1), (57, 3, 2), (56, 1, 2)])
def test_the_gradient_of_a_large_convolution_is_that_of_xla(side, size, stride, monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    ours, theirs = Conv(64, size, stride), nn.Conv(64, (size, size), stride, (size // 2,) * 2, use_bias=False)
    params = ours.init(jax.random.key(1), x)

    def gradients(layer):
        return jax.grad(lambda p, x: jnp.sin(layer.apply(p, x)).sum(), argnums=(0, 1))(params, x)

    calls, by_rows = [], layers._kernel_gradient
    monkeypatch.setattr(layers, "_kernel_gradient", lambda *inputs: calls.append(1) or by_rows(*inputs))
    for one, other in zip(*map(jax.tree.leaves, (gradients(ours), gradients(theirs))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        assert np.any(one)
    half = gradients(Conv(64, size, stride, jnp.bfloat16))[0]
    exact = jax.tree.leaves(gradients(theirs)[0])[0]
    np.testing.assert_allclose(*jax.tree.leaves(half), exact, atol=0.02 * np.abs(exact).max())
    assert len(calls) == 2


@pytest.mark.parametrize("side", [8, 9])
def test_the_gradient_of_max_pooling_has_the_bits_of_xlas_own(side):
    x = jax.nn.relu(jax.random.normal(jax.random.key(0), (2, side, side, 5)))  # many windows have equal values
    window = {"window_shape": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1))}
    (ours, backward), (theirs, their_backward) = jax.vjp(max_pool, x), jax.vjp(lambda x: nn.max_pool(x, **window), x)
    np.testing.assert_array_equal(ours, theirs)
    gradient = jax.random.normal(jax.random.key(1), ours.shape)
    np.testing.assert_array_equal(*backward(gradient), *their_backward(gradient))


def test_the_gradient_of_max_pooling_is_the_same_in_an_optimised_program(optimised):
    """As users run it, fused with its neighbours; rounding may differ there."""
    x, scale = jax.random.normal(jax.random.key(0), (2, 32, 32, 16)), jax.random.normal(jax.random.key(1), (2, 16))

    def gradients(pool):
        def loss(x, scale):
            return jnp.sum(jnp.sin(pool(jax.nn.relu(x * scale[0] + scale[1]))))

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, scale)

    theirs = gradients(lambda x: nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))))
    for one, other in zip(gradients(max_pool), theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        assert np.any(one)
