"""Every way in which the two streams meet: in the model, as an ONNX graph and as a checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights.adapt import adapt
from convert_weights.kinds import name_map
from convert_weights.store import LoadedCheckpoint
from tests import tiny
from tests.raises import user_error
from tramp_jax import config as defaults
from tramp_jax import losses, models
from tramp_jax.models import abstract_variables, build_model, init_variables
from tramp_jax.models.fusion import FUSIONS

SEQUENCE = {"tokens": "sequence"}
WAYS = [
    *({"name": name} for name in FUSIONS),
    {"query": "trajectory"},
    SEQUENCE,
    {"query": "trajectory"} | SEQUENCE,
    {"name": "cross"} | SEQUENCE,
]


def words(way):
    return " ".join(way.values())


def fusion_of(way, **options):
    """The fusion and the projection of a small model, without its encoders."""
    config = tiny.get_config().unlock().model
    config.fusion.update(way, **options)
    return build_model(config).fusion


def drawn(module, rgb, trajectory):
    """Variables without initial zeros and ones."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), rgb, trajectory)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0.3, 0.3, x.shape).astype(np.float32), shapes)


def tokens(way):
    """RGB and trajectory tokens of three clips, (3, Q, 32) and (3, K, 32)."""
    rng = np.random.default_rng(1)
    counts = (2, 5) if SEQUENCE.items() <= way.items() else (1, 1)
    return [rng.normal(size=(3, count, 32)).astype(np.float32) for count in counts]


@pytest.fixture(scope="module")
def features():
    """RGB and trajectory features (3, 1, 32)."""
    return tokens({})


def test_every_strategy_can_be_chosen():
    assert (*FUSIONS, models.LATE) == defaults.MODEL["fusion"]["name"].known


@pytest.mark.parametrize("way", WAYS, ids=words)
def test_every_token_of_both_streams_moves_the_fused_feature(way):
    fusion, features = fusion_of(way, depth=2), tokens(way)
    variables = drawn(fusion, *features)
    slopes = jax.jit(jax.grad(lambda pair: fusion.apply(variables, *pair).sum()))(features)
    assert all(np.all(np.abs(slope).max(axis=2) > 1e-4) for slope in slopes)


def test_sum_and_concatenation_by_definition(features):
    rgb, trajectory = features
    np.testing.assert_array_equal(fusion_of({"name": "sum"}).apply({}, rgb, trajectory), rgb + trajectory)
    fusion = fusion_of({"name": "concatenation"})
    variables = drawn(fusion, rgb, trajectory)
    linear = variables["params"]["linear"]
    expected = rgb @ linear["kernel"][:32] + trajectory @ linear["kernel"][32:] + linear["bias"]
    np.testing.assert_allclose(fusion.apply(variables, rgb, trajectory), expected, rtol=1e-4, atol=1e-5)


def test_the_trajectory_as_query_exchanges_the_streams(features):
    one, other = fusion_of({}), fusion_of({"query": "trajectory"})
    variables = drawn(one, *features)
    np.testing.assert_array_equal(one.apply(variables, *features), other.apply(variables, *features[::-1]))


def test_cross_fusion_alternates_tramp_blocks(features):
    rgb, trajectory = features
    cross, block = fusion_of({"name": "cross"}, depth=1), fusion_of({}, depth=1)
    variables = drawn(cross, rgb, trajectory)
    of_block = {"params": {"block_0": variables["params"]["cross_block_0"]}}
    rgb = block.apply(of_block, rgb, trajectory)
    trajectory = block.apply(of_block, trajectory, rgb)
    np.testing.assert_allclose(cross.apply(variables, *features), jnp.concatenate([rgb, trajectory], 1), rtol=1e-5)


@pytest.fixture(scope="module")
def late():
    """The late fusion of a small model: its configuration, variables without initial zeros, inputs of 3 clips."""
    config = tiny.get_config().unlock()
    config.model.fusion.name = models.LATE
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32) + (0.5 if x.ndim == 1 else 0),
        abstract_variables(config.model),
    )
    drawn = [rng.normal(size=shape).astype(np.float32) for shape in models.input_shapes(config.model, 3).values()]
    return config, variables, drawn


def test_late_fusion_is_the_mean_of_two_models(late):
    config, variables, (frames, trajectories, index_t) = late
    late = jax.jit(build_model(config.model).apply)
    score, out = late(variables, frames, trajectories, index_t)
    alone = []
    for streams, head in (("rgb", "head"), ("trajectory", "trajectory_head")):
        one = config.model.copy_and_resolve_references()
        one.streams = streams
        own = variables | {"params": variables["params"] | {"head": variables["params"][head]}}
        alone.append(jax.jit(build_model(one).apply)(own, frames, trajectories, index_t)[0])
    assert np.abs(alone[0] - alone[1]).min() > 1e-3
    np.testing.assert_allclose(score, np.mean(alone, axis=0), rtol=1e-5)
    assert {"rgb_features", "trajectory_features"} < out.keys()
    shared, _ = late(variables, frames[:1], trajectories, index_t)
    assert shared.shape == (3,)
    assert float(shared[0]) == pytest.approx(float(score[0]), rel=1e-5)


def test_in_late_fusion_each_stream_learns_from_its_own_loss(late):
    config, variables, inputs = late
    model, target = build_model(config.model), jnp.array([0.0, 2.0, 4.0])
    loss = losses.build_loss(config, [0, 2, 4])

    def of_frames(params):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        keys = {"dropout": jax.random.key(0)}
        (scores, _), _ = model.apply(given, *inputs, train=True, rngs=keys, mutable=["batch_stats"])
        return losses.bmc(scores[:, 0], target), scores

    slopes, scores = jax.jit(jax.grad(of_frames, has_aux=True))(variables["params"])
    assert scores.shape == (3, 2)
    separate = [float(losses.bmc(scores[:, stream], target)) for stream in (0, 1)]
    assert float(loss(scores, target)) == pytest.approx(sum(separate), rel=1e-5)
    norms = {part: sum(np.abs(x).sum() for x in jax.tree.leaves(tree)) for part, tree in slopes.items()}
    assert norms.pop("trajectory_encoder") == norms.pop("trajectory_head") == 0
    assert min(norms.values()) > 0


def test_sizes_at_the_published_width():
    sizes = {}
    for name in FUSIONS:
        config = defaults.base().model
        config.fusion.name = name
        token = jax.ShapeDtypeStruct((1, 1, config.fusion.width), jnp.float32)
        shapes = jax.eval_shape(build_model(config).fusion.init, jax.random.key(0), token, token)
        sizes[name] = sum(x.size for x in jax.tree.leaves(shapes))
    assert sizes == {"tramp": 2_368_512, "concatenation": 131_328, "sum": 0, "cross": 2_368_512}


@pytest.mark.parametrize("name", ["sum", models.LATE])
def test_an_unused_number_of_heads_is_ignored_but_an_unused_query_or_token_is_refused(config, name):
    config.model.fusion.update(name=name, heads=3)  # 3 does not divide the width
    build_model(config.model)
    for option, value in (("query", "trajectory"), ("tokens", "sequence")):
        changed = config.copy_and_resolve_references().model
        changed.fusion[option] = value
        with user_error("bad_option", f"model.fusion.{option}", name):
            build_model(changed)


def zeros(config):
    return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), abstract_variables(config))


@pytest.mark.parametrize("name", [*(name for name in FUSIONS if name != "tramp"), models.LATE])
def test_weights_of_another_fusion_are_refused(config, name):
    theirs, ours = (config.model.copy_and_resolve_references() for _ in range(2))
    ours.fusion.name = name
    with user_error("mismatch", "params/fusion/block_0"):
        adapt(LoadedCheckpoint("run", zeros(theirs), theirs, {"fresh": []}), ours)
    with user_error("no_counterpart", "model.fusion.name", name):
        name_map(ours)


def test_weights_for_another_query_give_a_warning_and_those_without_tokens_are_refused(config):
    theirs, ours = (config.model.copy_and_resolve_references() for _ in range(2))
    ours.fusion.query = "trajectory"
    (warning,) = adapt(LoadedCheckpoint("run", zeros(theirs), theirs, {"fresh": []}), ours).warnings
    assert "model.fusion.query" in warning
    with user_error("no_counterpart", "model.fusion.query", "trajectory"):
        name_map(ours)
    ours.fusion.update(SEQUENCE)
    with user_error("mismatch", "params/rgb_positions"):
        adapt(LoadedCheckpoint("run", zeros(theirs), theirs, {"fresh": []}), ours)


@pytest.fixture(scope="module")
def in_tokens():
    """A small model that fuses two sub-clips with 32 moments, its variables and inputs of three clips."""
    config = tiny.get_config().unlock().model
    config.trajectory.update(widths=(32, 32), blocks_per_stage=1)
    config.rgb.num_frames = 32
    config.fusion.update(SEQUENCE)
    rng = np.random.default_rng(3)
    inputs = {
        "frames": None,
        "trajectories": 30 * rng.normal(size=(3, 64, 63, 5)).astype(np.float32),
        "index_t": np.tile(np.linspace(-1, 1, 64, dtype=np.float32), (3, 1)),
        "frame_features": rng.normal(size=(3, 32, 16)).astype(np.float32),
    }
    model = build_model(config)
    variables = init_variables(config, jax.random.key(0))
    return variables, inputs, jax.jit(lambda variables, inputs: model.apply(variables, **inputs))


def test_tokens_are_sub_clips_and_moments_whose_means_are_the_features(in_tokens):
    variables, inputs, apply = in_tokens
    assert variables["params"]["rgb_positions"].shape == (2, 32)
    score, out = apply(variables, inputs)
    assert score.shape == (3,)
    assert out["trajectory_tokens"].shape == (3, 32, 32)
    assert out["rgb_tokens"].shape == (3, 2, 32)
    for stream in ("trajectory", "rgb"):
        np.testing.assert_allclose(out[f"{stream}_tokens"].mean(axis=1), out[f"{stream}_features"], atol=1e-5)


def test_the_order_of_sub_clips_counts_by_their_positions(in_tokens):
    variables, inputs, apply = in_tokens
    late = inputs | {"frame_features": np.roll(inputs["frame_features"], 16, axis=1)}
    found = []
    for scale in (10.0, 0.0):
        params = variables["params"] | {"rgb_positions": scale * variables["params"]["rgb_positions"]}
        (score, _), (other, _) = (apply({**variables, "params": params}, x) for x in (inputs, late))
        found.append(np.abs(score - other).max())
    assert found[0] > 1e-5 > 1e-6 > found[1]


def test_shared_and_distinct_frames_give_the_same_scores_from_tokens(in_tokens):
    variables, inputs, apply = in_tokens
    index = np.stack([np.arange(32) % n for n in (5, 20, 32)])
    features = inputs["frame_features"][:1]
    expected, _ = apply(variables, inputs | {"frame_features": features[0][index]})
    distinct, _ = apply(variables, inputs | {"frame_features": features, "frame_index": index})
    np.testing.assert_allclose(distinct, expected, rtol=1e-5)
    shared, out = apply(variables, inputs | {"frame_features": features})
    assert out["rgb_tokens"].shape == (1, 2, 32)
    assert float(shared[2]) == pytest.approx(float(expected[2]), rel=1e-5)


@pytest.mark.parametrize("way", WAYS, ids=words)
def test_the_onnx_nodes_compute_the_same(way):
    onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    from tramp_jax.export.fusion_graph import fused
    from tramp_jax.export.graph import Graph
    from tramp_jax.export.onnx_graph import as_model
    from tramp_jax.scoring.onnx_judge import open_session

    fusion, features = fusion_of(way, depth=2), tokens(way)
    variables = drawn(fusion, *features)
    expected = jax.jit(lambda pair: jnp.mean(fusion.apply(variables, *pair), axis=1))(features)
    g = Graph()
    g.output(fused(g, fusion, variables.get("params", {}), "rgb", "trajectory"), "fused")
    infos = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [f"{name} tokens", 32])
        for name in ("rgb", "trajectory", "fused")
    }
    graph = as_model(g, [infos["rgb"], infos["trajectory"]], [infos["fused"]])
    session = open_session(graph.SerializeToString(), threads=1)
    for clip in range(3):
        given = {name: x[clip] for name, x in zip(("rgb", "trajectory"), features, strict=True)}
        np.testing.assert_allclose(session.run(None, given)[0], expected[clip : clip + 1], rtol=1e-4, atol=1e-4)
