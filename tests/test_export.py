"""ONNX graphs compute the same as their models; the export command; scoring with ONNX Runtime."""

import dataclasses
import json
import sys
import types

import jax
import numpy as np
import pytest

from tests import tiny
from tests.raises import user_error
from tramp_jax import Scorer, cli
from tramp_jax.batches import view
from tramp_jax.batches.augment import for_evaluation
from tramp_jax.batches.pipeline import Sampler
from tramp_jax.checkpoint import Checkpoints
from tramp_jax.data import datasets
from tramp_jax.data.clip_folder import write_clip
from tramp_jax.data.clips import encode_frame
from tramp_jax.models import Inputs, abstract_variables, apply, build_model
from tramp_jax.output import Output
from tramp_jax.scoring import judges
from tramp_jax.scoring.judges import JaxJudge, make_judge
from tramp_jax.scoring.members import load_member

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

from tramp_jax.export.graph import Graph  # noqa: E402
from tramp_jax.export.onnx_graph import _score, as_model, build  # noqa: E402
from tramp_jax.scoring import onnx_judge  # noqa: E402
from tramp_jax.scoring.onnx_judge import OnnxJudge, open_session  # noqa: E402

OUTPUT = Output((0.0, 1.0, 2.0, 3.0, 4.0), (0.1, 0.3, 0.2, 0.2, 0.2), sigma=1.0, low=0.0, high=4.0)


def drawn_variables(config):
    """Variables of a model without its initial zeros and ones, so that all biases, scales and statistics matter."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        name = path[-1].key
        if name == "var":
            return rng.uniform(0.5, 2, x.shape).astype(np.float32)
        spread = 1.5 * np.prod(x.shape[:-1]) ** -0.5 if name == "kernel" else 1.0 if name == "table" else 0.1
        return (name == "scale") + spread * rng.normal(size=x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(config.model))


@pytest.fixture(scope="module")
def source():
    return datasets.open_dataset(tiny.get_config()).source


def with_tokens(graph):
    """The graph with one more output: the tokens (T · V, C) whose mean is the trajectory's feature.

    A mistake in one place hardly shows in the score, which is computed from means over thousands of tokens.
    """
    nodes = {node.name: node for node in graph.graph.node}
    # The last sum before the first mean over tokens, which a fusion of tokens takes joint by joint.
    sources = (node.input[0] for node in nodes.values() if node.op_type == "ReduceMean")
    sources = (nodes[x].input[0] if x.startswith("Reshape") else x for x in sources)
    source = next(x for x in sources if x.startswith("Add"))
    tokens = onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, ["tokens", "channels"])
    graph.graph.output.append(tokens)
    return graph


def sampled(config, clip):
    """The inputs of the graph for a clip."""
    inputs = dataclasses.asdict(Sampler(config).test(clip).inputs)
    return {name: x[None] for name, x in inputs.items() if x is not None}


def by_model(config, variables, sample):
    """Scores and intermediates in JAX."""

    def scores(sample):
        inputs = for_evaluation(Inputs(**sample), config.model)
        return apply(build_model(config.model), variables, inputs)

    return jax.jit(scores)(sample)


def by_graph(graph, sample):
    """The outputs of a graph in ONNX Runtime, in order."""
    onnx.checker.check_model(graph, full_check=True)
    session = open_session(graph.SerializeToString(), threads=1)
    assert {entry.name for entry in session.get_inputs()} == set(sample)
    return session.run(None, sample)


def error(expected, found):
    """The largest difference, relative to the largest value or to 1."""
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / max(1, np.abs(expected).max())


def changed(**groups):
    config = tiny.get_config().unlock()
    for group, options in groups.items():
        config[group].update(options)
    return config


def in_tokens(name):
    config = changed(model={"rgb": {"num_frames": 32}})
    config.model.fusion.update(name=name, tokens="sequence")
    return config


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(changed(model={"trajectory": {"widths": (32, 32), "patch": 1}}), id="both streams, two stages"),
        pytest.param(changed(model={"streams": "rgb"}), id="rgb"),
        pytest.param(changed(model={"streams": "trajectory", "trajectory": {"bias_order": "time"}}), id="bias by time"),
        pytest.param(
            changed(
                model={
                    "streams": "trajectory",
                    "trajectory": {"channels": "xy", "input_scale": (0.1, 0.2), "stem_channels": 5, "table_frames": 0},
                }
            ),
            id="another stem, own tables",
        ),
        pytest.param(
            changed(
                data={"padding": "loop"},
                model={
                    "streams": "trajectory",
                    "trajectory": {"channels": "xy+speed+energy", "input_scale": (1.0,), "patch": 1},
                },
            ),
            id="motion",
        ),
        pytest.param(
            changed(
                data={"padding": "zero"},
                model={
                    "streams": "trajectory",
                    "trajectory": {"channels": "asymmetry+range+tremor+rgb", "input_scale": (1.0,), "patch": 2},
                },
            ),
            id="motion in patches, with blanks",
        ),
        pytest.param(changed(model={"streams": "trajectory", "members": 2}), id="two members"),
        pytest.param(
            changed(model={"streams": "trajectory", "members": 2, "ridge": True, "trajectory": {"patch": 2}}),
            id="two members and a ridge regression",
        ),
        pytest.param(changed(data={"padding": "zero"}, model={"streams": "rgb"}), id="frames of zeros"),
        pytest.param(changed(data={"padding": "zero", "frame_padding": "loop"}), id="only the trajectory has zeros"),
        pytest.param(changed(data={"padding": "spline", "frame_padding": "zero"}), id="only the frames have zeros"),
        pytest.param(in_tokens("tramp"), id="fusion of tokens"),
        pytest.param(in_tokens("cross"), id="cross-fusion of tokens"),
        pytest.param(changed(model={"fusion": {"name": "late"}}), id="late fusion"),
        pytest.param(changed(model={"streams": "rgb", "rgb": {"scrambled_frames": True}}), id="scrambled frames"),
        pytest.param(changed(model={"name": "skateformer", "head": {"hidden": ()}}), id="skateformer"),
        pytest.param(changed(model={"name": "former_dfer", "head": {"hidden": ()}}), id="former_dfer"),
    ],
)
def test_the_graph_computes_the_same_as_the_model(config, source):
    variables = drawn_variables(config)
    clip = source[0]
    clip = dataclasses.replace(clip, landmarks=clip.landmarks[:9], pixels=clip.pixels[:9], frames=clip.frames[:9])
    sample = sampled(config, clip)
    expected, out = by_model(config, variables, sample)
    graph = build(config, variables, OUTPUT)
    with_tokens_too = "trajectories" in sample and config.model.members == 1
    if with_tokens_too:
        graph = with_tokens(graph)
    score, raw, *others = by_graph(graph, sample)
    assert error(expected, raw) < 1e-4
    assert score == pytest.approx(OUTPUT.score(raw.astype(float)), abs=1e-5)
    if "frames" in sample:
        features = others.pop(0)[sample["frame_index"][0]] if "frame_index" in sample else others.pop(0)
        assert error(out["frame_features"][0], features) < 1e-5
    if with_tokens_too:
        last = max(name for name in out if name.startswith("trajectory_stage"))
        tokens = others.pop(0)
        assert error(np.reshape(out[last], tokens.shape), tokens) < 1e-5
    assert not others


def test_the_comparison_detects_a_wrong_bias(source):
    configs = [changed(model={"streams": "trajectory", "trajectory": {"bias_order": x}}) for x in ("tiled", "time")]
    variables, sample = drawn_variables(configs[0]), sampled(configs[0], source[0])
    tiled, time = (by_graph(with_tokens(build(config, variables, OUTPUT)), sample)[-1] for config in configs)
    assert error(tiled, time) > 1e-3


def test_one_graph_takes_clips_of_any_length(source):
    config = changed(model={"streams": "rgb"})
    variables = drawn_variables(config)
    session = open_session(build(config, variables, OUTPUT).SerializeToString(), threads=1)
    found = []
    for count in (1, 5, 16):
        clip = dataclasses.replace(source[0], landmarks=source[0].landmarks[:count], frames=source[0].frames[:count])
        _, raw, features = session.run(None, sampled(config, clip))
        assert features.shape == (count, config.model.rgb.widths[-1])
        found.append(raw[0])
    assert len(set(found)) == 3


def test_a_classifier_is_refused():
    config = changed(model={"head": {"num_classes": 3}})
    with user_error("classifier", "model.head.num_classes", 3):
        build(config, {}, OUTPUT)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, with an untrained model."""
    folder, config = tmp_path_factory.mktemp("run"), tiny.get_config().unlock()
    config.model.trajectory.update(attention_dropout=0.5, drop_path=0.2)
    (folder / "config.json").write_text(config.to_json())
    with Checkpoints(folder, writing=True) as checkpoints:
        checkpoints.save_best(7, drawn_variables(config))
    return folder


def padded(run, source, padding):
    """The run's model with another padding, and a clip that needs it."""
    member = load_member(run)
    config = member.config.copy_and_resolve_references().unlock()
    config.data.padding = padding
    short = {name: getattr(source[2], name)[:9] for name in ("landmarks", "pixels", "frames")}
    return dataclasses.replace(member, config=config), dataclasses.replace(source[2], **short)


@pytest.mark.parametrize("padding", view.PADDINGS)
def test_both_runtimes_give_the_same_raw_values(run, source, padding):
    member, short = padded(run, source, padding)
    clips = [source[0], short]
    np.testing.assert_allclose(OnnxJudge(member).many(clips), JaxJudge(member).many(clips), rtol=1e-4, atol=1e-4)


def test_repeated_frames_are_encoded_once_with_the_same_result(run, source, monkeypatch):
    judge, clip = OnnxJudge(load_member(run)), source[0]
    numbers = np.repeat(np.arange(8), 2)
    twice = dataclasses.replace(
        clip,
        landmarks=clip.landmarks[numbers],
        pixels=clip.pixels[numbers],
        frames=tuple(clip.frames[i] for i in numbers),
    )
    encoded = []
    encode = judge._run_encoder
    monkeypatch.setattr(judge, "_run_encoder", lambda *of: encoded.append(encode(*of)) or encoded[-1])
    raw = judge.many([twice])
    assert sum(map(len, encoded)) == 8
    monkeypatch.setattr(onnx_judge, "_without_repeats", lambda frames, present: (np.arange(len(frames)),) * 2)
    assert np.array_equal(judge.many([twice]), raw)


def test_a_black_frame_is_not_taken_for_padding(run, source):
    member, short = padded(run, source, "zero")
    black = dataclasses.replace(short, frames=(encode_frame(np.zeros((256, 256, 3), np.uint8)), *short.frames[1:]))
    np.testing.assert_allclose(OnnxJudge(member).many([black]), JaxJudge(member).many([black]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("knots", [(), ((-0.6, 0.2), (-0.45, 0.3), (-0.3, 1.7), (1.0, 1.71))])
@pytest.mark.parametrize("ratings", [(0.0, 1.0, 2.0, 4.0), ()])
def test_the_score_in_the_graph_is_that_of_the_output(ratings, knots):
    shares = tuple((i + 1) / 10 for i in range(len(ratings)))
    output = Output(ratings, shares, sigma=0.7, low=0.0, high=4.0, slope=1.4, offset=-0.3, people=12, knots=knots)
    g = Graph()
    g.output(_score(g, output, "raw"), "score")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("raw", "score")]
    session = open_session(as_model(g, ends[:1], ends[1:]).SerializeToString(), threads=1)
    raw = np.linspace(-4, 4, 200, dtype=np.float32)
    scores = np.concatenate([session.run(None, {"raw": each})[0] for each in raw[:, None]])
    np.testing.assert_allclose(scores, output.score(raw.astype(float)), atol=1e-6)


@pytest.mark.parametrize("ratings", [(0.0, 1.0, 2.0, 4.0), ()])
def test_the_file_gives_scores_on_the_rating_scale(source, ratings):
    config = changed(model={"streams": "trajectory"})
    shares = tuple(1 / len(ratings) for _ in ratings)
    output = Output(ratings, shares, sigma=0.7, low=0.0, high=4.0, slope=1.4, offset=-0.3, people=12)
    session = open_session(build(config, drawn_variables(config), output).SerializeToString(), threads=1)
    for clip in (source[0], source[1]):
        score, raw = session.run(["score", "raw"], sampled(config, clip))
        assert score == pytest.approx(output.score(raw.astype(float)), abs=1e-5)
        assert 0 <= score[0] <= 4


def test_the_runtime_is_chosen(run, monkeypatch):
    member = load_member(run)
    assert isinstance(make_judge(member), OnnxJudge)
    assert isinstance(make_judge(member, "jax"), JaxJudge)
    low = tiny.get_config().unlock()
    low.model.precision = "bfloat16"
    assert isinstance(make_judge(dataclasses.replace(member, config=low)), JaxJudge)
    with user_error("bad_option", "torch", "auto, jax, onnx"):
        make_judge(member, "torch")
    monkeypatch.setattr(judges.jax, "default_backend", lambda: "gpu")
    assert isinstance(make_judge(member), JaxJudge)
    monkeypatch.undo()
    found = types.SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(onnx_judge.importlib, "util", found)
    assert isinstance(make_judge(member), JaxJudge)
    with user_error("missing_package", "onnx", "onnxruntime"):
        make_judge(member, "onnx")


def test_a_scorer_takes_a_runtime(run, source):
    scored = Scorer(run, runtime="onnx").score_clip(source[0])
    member = load_member(run)
    assert scored.score == member.output.score(OnnxJudge(member).many([source[0]])[0])


needs_bfloat16 = pytest.mark.skipif(
    not onnx_judge.has_bfloat16(), reason="needs OpenVINO and a processor with instructions for bfloat16"
)


@needs_bfloat16
@pytest.mark.parametrize("padding", view.PADDINGS)
def test_frames_in_bfloat16_have_nearly_the_same_features(run, source, padding):
    """The clips have more frames than the encoder takes at once, and fewer."""
    member, short = padded(run, source, padding)
    exact, judge = OnnxJudge(member), make_judge(member, precision="bfloat16")
    for clip in (source[0], short):
        sample = Sampler(member.config).test(clip).inputs
        features = exact._encode(sample)
        moved = np.abs(judge._encode(sample) - features).max() / np.abs(features).max()
        assert 0 < moved < 0.04  # bfloat16 has 8 bits
    raw = judge.many([source[0], short])
    assert np.array_equal(judge.many([short, source[0]])[::-1], raw)  # frames that fill up a call change nothing


@needs_bfloat16
def test_a_table_keeps_scores_of_both_precisions_apart(run, tmp_path, source, capsys):
    write_clip(tmp_path / "clip", source[0])
    command = ["score", str(tmp_path / "clip"), "--checkpoint", str(run), "--out", str(tmp_path / "scores.csv")]
    for precision, outcome in (
        ("float32", "1 scored"),
        ("bfloat16", "1 scored"),
        ("bfloat16", "1 already in the table"),
    ):
        assert cli.main([*command, "--precision", precision]) == 0
        assert outcome in capsys.readouterr().out
    scorer = Scorer(run, precision="bfloat16")
    assert "bfloat16" in scorer.evidence(scorer.score_clip(source[0]), attribute=False).provenance.values()
    assert "openvino_telemetry" not in sys.modules or sys.modules["openvino_telemetry"] is None


def test_bfloat16_is_refused_where_it_cannot_be_trusted_or_used(run, monkeypatch):
    member = load_member(run)
    frames_alone = dataclasses.replace(member, config=changed(model={"streams": "rgb"}))
    with user_error("bad_option", str(member.run), "float32"):
        make_judge(frames_alone, precision="bfloat16")
    with user_error("bad_option", "jax", "onnx"):
        make_judge(member, "jax", "bfloat16")
    with user_error("bad_option", "float16", "float32, bfloat16"):
        make_judge(member, precision="float16")
    core = types.SimpleNamespace(get_property=lambda device, name: ["FP32", "INT8"])
    monkeypatch.setitem(sys.modules, "openvino", types.SimpleNamespace(Core=lambda: core))
    with user_error("bad_option", "processor", "float32"):
        make_judge(member, precision="bfloat16")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with user_error("missing_package", "tramp_jax[openvino]"):
        make_judge(member, precision="bfloat16")


def test_the_command_writes_a_file_that_scores_and_says_what_it_is(run, source, tmp_path, capsys):
    out = tmp_path / "models" / "tiny.onnx"
    command = ["export", "--checkpoint", str(run), "--out", str(out)]
    assert cli.main(command) == 0
    member = load_member(run)
    assert member.id in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == [out.name]

    session = open_session(out)
    stored = session.get_modelmeta().custom_metadata_map
    assert stored["model"] == member.id
    assert stored["step"] == "7"
    assert json.loads(stored["config"]) == json.loads(member.config.to_json())
    score, raw = session.run(["score", "raw"], sampled(member.config, source[0]))
    expected = OnnxJudge(member).many([source[0]])[0]
    assert (score[0], raw[0]) == pytest.approx((member.output.score(expected), expected), rel=1e-5)

    with pytest.raises(SystemExit):
        cli.main(command)
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 0
