"""Options: their allowed values, the configurations of older runs, and the arguments of recipes."""

import json

import pytest

from configs import dfew_rgb, dfew_trajectory, folder, frames, neuroface, pfed5, ravdess, synthetic, youtubepd
from tests.raises import user_error
from tramp_jax import config as options

RECIPES = [dfew_rgb, dfew_trajectory, folder, frames, neuroface, pfed5, ravdess, synthetic, youtubepd]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_every_recipe_has_only_allowed_values(recipe):
    options.check(recipe.get_config())


@pytest.mark.parametrize(
    ("path", "value", "facts"),
    [
        ("loss.name", "bcm", ["bmc", "mse", "cross_entropy"]),
        ("data.padding", "loops", ["did you mean loop?", "zero", "repeat", "spline"]),
        ("model.trajectory.bias_order", "tilde", ["tiled", "time"]),
        ("output.fit", "False", ["auto", "line", "isotonic", "none"]),
        ("optimizer.name", "lion", ["sgd", "adam"]),
        ("train.epochs", 0, ["at least 1"]),
        ("augment.flip", 1.5, ["at most 1"]),
        ("loss.sigma", 0.0, ["at least"]),
        ("loss.sigma", float("nan"), ["at least"]),
        ("seed", -1, ["at least 0"]),
        ("data.split_seed", -1, ["at least 0"]),
        ("model.rgb.image_size", 0, ["from 1 to"]),
        ("model.head.hidden", (0,), ["from 1 to"]),
        ("model.trajectory.widths", (32, -32), ["from 1 to"]),
        ("model.trajectory.table_frames", -1, ["at least 0"]),
        ("model.fusion.depth", 0, ["from 1 to"]),
        ("model.trajectory.length", 1 << 40, ["from 1 to"]),
        ("model.trajectory.stem_channels", 1 << 40, ["at most"]),
        ("optimizer.decay_every", 0, ["at least 1"]),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(path, value, facts, config):
    config.update_from_flattened_dict({path: value})
    with user_error("bad_option", path, value, *facts):
        options.check(config)


def test_an_option_that_does_not_exist_is_refused(config):
    config.optimizer.learning_rat = 0.1
    with user_error("unknown_option", "optimizer.learning_rat", "did you mean optimizer.learning_rate?"):
        options.check(config)
    with user_error("unknown_option", "precision", "model.precision"):
        options.check_names(["data.root", "optimizer", "model.rgb", "precision"])


def test_a_configuration_survives_its_file(config):
    config.model.precision = "bfloat16"
    config.landmarks.normalise = "first_frame"
    assert options.of_run(json.loads(config.to_json())).to_json() == config.to_json()


OLDER = {  # options of an older run, and those that it has now
    "precision": ("bfloat16", {"model.precision": "bfloat16"}),
    "remat": (True, {"model.remat": True}),
    "task": ("classification", {}),
    "tasks": ({"regression": {}, "classification": {"data": {"target": "symmetry"}}}, {}),
    "compat": (
        {"first_frame_centring": True, "scrambled_frames": True, "swapped_bmc": True},
        {"landmarks.normalise": "first_frame", "model.rgb.scrambled_frames": True, "loss.swapped": True},
    ),
}


@pytest.mark.parametrize("name", OLDER)
def test_an_older_run_has_todays_options(name, config):
    value, today = OLDER[name]
    written = json.loads(config.to_json())
    del written["evaluation"]  # an option that is newer than the run
    loaded = options.of_run(written | {name: value})
    config.evaluation.update(options.base().evaluation)
    config.update_from_flattened_dict(today)
    assert loaded.to_json(sort_keys=True) == config.to_json(sort_keys=True)


@pytest.mark.parametrize(("fit", "today"), [(True, "auto"), (False, "none")])
def test_an_older_run_only_recorded_whether_to_fit(fit, today, config):
    written = json.loads(config.to_json())
    written["output"] = {"decode": "balanced", "fit": fit}
    assert options.of_run(written).output.to_dict() == {"decode": "balanced", "fit": today}


COLOURS, NUMBERS = ("RED", "GREEN"), ("1", "2")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("green", {"colour": "GREEN"}),
        ("2, red", {"number": "2", "colour": "RED"}),
        ("number=1", {"number": "1"}),
    ],
)
def test_recipe_arguments_come_in_any_order_and_case(text, found):
    assert options.recipe_arguments("configs/x.py", text, colour=COLOURS, number=NUMBERS) == found


@pytest.mark.parametrize("text", ["blue", "red,green", "colour=1", "size=1", "1,number=1", "="])
def test_recipe_arguments_that_do_not_fit_are_refused(text):
    with user_error("bad_option", f"configs/x.py:{text}", "colour: RED, GREEN", "number: 1, 2"):
        options.recipe_arguments("configs/x.py", text, colour=COLOURS, number=NUMBERS)
