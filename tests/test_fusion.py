"""Every way in which the two streams meet: in the model, as an ONNX graph and as a checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights.adapt import adapt
from convert_weights.kinds import name_map
from convert_weights.load import LoadedCheckpoint
from tests import tiny
from tests.raises import user_error
from tramp_jax import config as defaults
from tramp_jax.models import abstract_variables, build_model
from tramp_jax.models.fusion import FUSIONS

WAYS = [{"name": name} for name in FUSIONS] + [{"query": "trajectory"}]


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


@pytest.fixture(scope="module")
def features():
    """RGB and trajectory features (3, 1, 32)."""
    rng = np.random.default_rng(1)
    return [rng.normal(size=(3, 1, 32)).astype(np.float32) for _ in range(2)]


def test_every_strategy_can_be_chosen():
    assert tuple(FUSIONS) == defaults.MODEL["fusion"]["name"].known


@pytest.mark.parametrize("way", WAYS, ids=words)
def test_both_streams_move_the_fused_feature(way, features):
    fusion = fusion_of(way, depth=2)
    variables = drawn(fusion, *features)
    for i in range(2):
        slope = jax.grad(lambda x, i=i: fusion.apply(variables, *features[:i], x, *features[i + 1 :]).sum())(
            features[i]
        )
        assert np.all(np.abs(slope).max(axis=(1, 2)) > 1e-4)
    alone = fusion.apply(variables, *(x[1:2] for x in features))
    np.testing.assert_allclose(fusion.apply(variables, *features)[1:2], alone, rtol=1e-4)


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


def test_sizes_at_the_published_width():
    sizes = {}
    for name in FUSIONS:
        config = defaults.base().model
        config.fusion.name = name
        params = abstract_variables(config)["params"]
        sizes[name] = sum(x.size for x in jax.tree.leaves(params.get("fusion", {})))
    assert sizes == {"tramp": 2_368_512, "concatenation": 131_328, "sum": 0, "cross": 2_368_512}


def test_options_of_other_strategies_have_no_effect_but_the_query_is_refused(config):
    config.model.fusion.update(name="sum", heads=3)  # 3 does not divide the width
    build_model(config.model)
    config.model.fusion.query = "trajectory"
    with user_error("bad_option", "model.fusion.query", "sum"):
        build_model(config.model)


def zeros(config):
    return jax.tree.map(lambda x: np.zeros(x.shape, np.float32), abstract_variables(config))


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "tramp"])
def test_weights_of_another_fusion_are_refused(config, name):
    theirs, ours = (config.model.copy_and_resolve_references() for _ in range(2))
    ours.fusion.name = name
    with user_error("mismatch", "params/fusion/block_0"):
        adapt(LoadedCheckpoint("run", zeros(theirs), theirs, {"fresh": []}), ours)
    with user_error("no_counterpart", "model.fusion.name", name):
        name_map(ours)


def test_weights_for_another_query_give_a_warning(config):
    theirs, ours = (config.model.copy_and_resolve_references() for _ in range(2))
    ours.fusion.query = "trajectory"
    (warning,) = adapt(LoadedCheckpoint("run", zeros(theirs), theirs, {"fresh": []}), ours).warnings
    assert "model.fusion.query" in warning
    with user_error("no_counterpart", "model.fusion.query", "trajectory"):
        name_map(ours)


@pytest.mark.parametrize("way", WAYS, ids=words)
def test_the_onnx_nodes_compute_the_same(way, features):
    onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    from tramp_jax.export.fusion_graph import fused
    from tramp_jax.export.graph import Graph
    from tramp_jax.export.onnx_graph import as_model
    from tramp_jax.scoring.onnx_judge import open_session

    fusion = fusion_of(way, depth=2)
    variables = drawn(fusion, *features)
    expected = jnp.mean(fusion.apply(variables, *features), axis=1)
    g = Graph()
    g.output(fused(g, fusion, variables.get("params", {}), "rgb", "trajectory"), "fused")
    infos = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 32])
        for name in ("rgb", "trajectory", "fused")
    }
    graph = as_model(g, [infos["rgb"], infos["trajectory"]], [infos["fused"]])
    session = open_session(graph.SerializeToString(), threads=1)
    for clip in range(3):
        given = {name: x[clip] for name, x in zip(("rgb", "trajectory"), features, strict=True)}
        np.testing.assert_allclose(session.run(None, given)[0], expected[clip : clip + 1], rtol=1e-4, atol=1e-4)
