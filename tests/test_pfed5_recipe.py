import jax
import numpy as np
import pytest

from configs import pfed5 as recipe
from tests.published_layouts import PFED5_EXPRESSIONS, write_pfed5
from tests.raises import user_error
from tramp_jax import models
from tramp_jax.data import datasets, landmarks
from tramp_jax.errors import UserError


@pytest.mark.parametrize(
    ("argument", "expression", "length"),
    [((), "smile", 128), (("",), "smile", 128), (("0",), "sit_at_rest", 64), (("4",), "clench_teeth", 128)]
    + [((name,), name, 64 if name == "sit_at_rest" else 128) for name in PFED5_EXPRESSIONS],
)
def test_recipe_takes_an_expression(argument, expression, length):
    config = recipe.get_config(*argument)
    assert (config.data.expression, config.model.trajectory.length) == (expression, length)
    assert config.name == f"pfed5_{expression}"


@pytest.mark.parametrize("argument", ["5", "-1", "grin", "1.0"])
def test_recipe_lists_the_expressions_it_knows(argument):
    with user_error("bad_option", f"configs/pfed5.py:{argument}", *PFED5_EXPRESSIONS):
        recipe.get_config(argument)


def test_recipe_is_the_published_one():
    config = recipe.get_config()
    optimizer, train = config.optimizer, config.train
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 1e-3, 0.9)
    assert (optimizer.decay_every, optimizer.decay_factor, optimizer.weight_decay) == (40, 0.1, 0)
    assert (train.batch_size, train.epochs, train.passes_per_epoch) == (4, 100, 5)
    assert (config.loss.name, config.loss.sigma) == ("bmc", 1)
    released = config.loss.swapped, config.model.rgb.scrambled_frames, config.landmarks.normalise == "first_frame"
    assert not any(released)


@pytest.mark.parametrize(("expression", "length"), [("0", 64), ("3", 128)])
def test_recipe_builds_the_published_model(expression, length):
    model = recipe.get_config(expression).model
    shapes = models.input_shapes(model, batch=4)
    assert shapes == {"frames": (4, 80, 224, 224, 3), "trajectories": (4, length, 63, 5), "index_t": (4, length)}
    inputs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes.values()]
    variables = jax.eval_shape(models.build_model(model).init, jax.random.key(0), *inputs)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert round(count / 1e6, 2) == 25.17


def test_recipe_opens_the_data_and_keeps_the_official_split(tmp_path):
    write_pfed5(tmp_path, 3, 1, ("smile", "frown"), pixels=False)
    config = recipe.get_config("frown")
    config.data.root = str(tmp_path)
    dataset = datasets.open_dataset(config)
    (fold,) = datasets.runs(dataset, config)
    parts = datasets.split(dataset, config, fold)
    assert {info.subject for info in parts["test"].infos} == {"P03"}
    everyone = [info for part in parts.values() for info in part.infos]
    assert {(info.subject, info.expression) for info in everyone} == {(f"P0{i}", "frown") for i in range(4)}
    points = landmarks.select(parts["test"][0].landmarks, parts["test"][0].layout)
    assert points.shape == (7, 63, 2)


def test_recipe_without_the_data_says_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        datasets.open_dataset(recipe.get_config("0"))
    for fact in ("data/PFED5", "data.root"):
        assert fact in str(caught.value)
