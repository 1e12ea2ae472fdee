"""Every option with its published value and its allowed values. Recipes in ``configs/`` change some of them."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from tramp_jax import channels
from tramp_jax.errors import UserError


class Option(NamedTuple):
    """An option's default and its allowed values: those in ``known`` or, without any, numbers from ``low`` to ``high``.

    With ``joined``, several of ``known`` joined with "+" are allowed, too.

    A whole number without an ``Option``, alone or in a tuple, is a size: from 1 to ``MOST``.
    """

    default: Any
    known: tuple[str, ...] = ()
    joined: bool = False
    low: float = -math.inf
    high: float = math.inf


MOST = 1 << 16  # largest value of any size; more, as in a damaged config.json, would only fill the memory


def _one_of(default: str, *others: str) -> Option:
    return Option(default, known=(default, *others))


def _at_least(low: float, default: float) -> Option:
    return Option(default, low=low)


def _size(low: int, default: int) -> Option:
    return Option(default, low=low, high=MOST)


def _share(default: float) -> Option:
    return Option(default, low=0, high=1)


_PADDINGS = ("loop", "zero", "repeat", "spline", "reflect")

# The published model has 25.17 M parameters.
MODEL: dict[str, Any] = {
    # Type of the products in the encoders and the fusion. Parameters, statistics, softmax, loss, head and the stem of
    # the trajectory encoder are always float32. On GPUs and TPUs, float32 products have the hardware's default
    # precision.
    "precision": _one_of("float32", "bfloat16"),
    "remat": False,  # recompute the encoders' blocks in the backward pass: less memory, more time
    "name": _one_of("tramp_former", "skateformer", "former_dfer"),  # the last two: one encoder with a linear head
    "streams": _one_of("both", "rgb", "trajectory"),
    # Number of models that train side by side from different initial weights; the score is their mean. Steadier with
    # few people; only for streams=trajectory.
    "members": _size(1, 1),
    # Average the network's score with that of a ridge regression on the means over time of its trajectory channels.
    # Steadier with few people; see tramp_jax.ridge.
    "ridge": False,
    "trajectory": {
        "length": 128,  # T: 64, 128 or 256
        # What to read about each landmark: position and colour as published, how it moves, or both, as in "xy+energy";
        # see tramp_jax.batches.motion.
        "channels": Option("xyrgb", known=(*channels.STORED, *channels.MOTION), joined=True),
        "patch": _size(1, 1),  # number of frames that are averaged into one step of the encoder
        # The stem's hidden widths are 2 and 3 times this number; 0: the number of channels. With 5, a model of "xy" or
        # "rgb" can start from weights for "xyrgb".
        "stem_channels": _size(0, 0),
        "num_points": 63,
        "widths": (128, 256, 256, 256),
        "blocks_per_stage": 2,
        "embed_width": 128,
        "mlp_ratio": 2,
        "neighbours": 9,  # landmarks in a set of neighbours
        "distant": 7,  # landmarks in a set of distant ones
        "local_frames": 8,  # frames in a local set
        # The global position tables are for sets of this many frames: 32 (those of T = 256) for every T, as published;
        # 0: as many as the model's T needs.
        "table_frames": _size(0, 32),
        "bias_order": _one_of("tiled", "time"),  # "tiled" as published; "time" is evidently what was meant
        # Factors on the channels, one for all or one for each. Published weights expect unscaled channels, but a small
        # model trains faster from scratch if values are around one.
        "input_scale": (1.0,),
        "attention_dropout": _share(0.5),
        "drop_path": _share(0.2),
    },
    "rgb": {
        "num_frames": 80,
        "image_size": 224,
        "widths": (64, 128, 256, 512),
        "clip_length": 16,
        "spatial_heads": 8,
        "spatial_mlp_dim": 512,
        "temporal_depth": 3,
        "temporal_heads": 8,
        "temporal_mlp_dim": 1024,
        "scrambled_frames": False,  # as in the released code: the colour planes of the frames out of place
    },
    "fusion": {
        # How the streams are combined (paper, Table VI): TraMP blocks as published; both features side by side and one
        # linear map; their sum; TraMP blocks in both directions. "late" is ours: each stream is trained with its own
        # head and loss, and the score is the mean of both. Options that a strategy does not use have no effect.
        "name": _one_of("tramp", "concatenation", "sum", "cross", "late"),
        "query": _one_of("rgb", "trajectory"),  # for "tramp": the stream that attends to the other one
        # What the strategy reads from a stream: its mean feature, as published, so attention has a single key and its
        # softmax is 1; or, for "tramp" and "cross", the features of the sub-clips of frames and the moments of the
        # trajectory. Sub-clips then get learned positions; moments already have theirs.
        "tokens": _one_of("mean", "sequence"),
        "width": 256,
        "depth": 3,
        "heads": 8,
        "mlp_ratio": 4,
    },
    "head": {"hidden": (128, 64), "num_classes": _size(0, 0)},  # 0 classes: regression
}

OPTIONS: dict[str, Any] = {
    "name": "base",
    "seed": _at_least(0, 0),
    "model": MODEL,
    "data": {
        "name": "",  # one of tramp_jax.data.readers.READERS
        "root": "",
        "expression": "",  # train and test on this expression only; "" for all
        # Lowest and highest rating of the scale, such as (0.0, 4.0). (0.0, 0.0): the data set's own scale or, if it has
        # none, the lowest and highest rating of the training and validation clips.
        "scale": (0.0, 0.0),
        "target": "",  # the rating to learn if clips have several; "" for the main score
        "skip_bad": False,  # check every clip first, and train on those without a fault
        "still": False,  # control: every clip becomes its first frame, repeated, so only identity is left
        "truncation": _one_of("random", "last"),  # the T consecutive frames that training takes from longer clips
        "padding": _one_of(*_PADDINGS),  # for clips too short for a stream
        "frame_padding": _one_of("same", *_PADDINGS),  # for the frame stream; same: as data.padding
        # The frames that training takes from clips longer than the frame stream: random ones in order, a random run of
        # consecutive ones, or evenly spaced ones as in testing.
        "frame_choice": _one_of("random", "consecutive", "uniform"),
        # Published lists, published folds, cross-validation or one split over subjects; auto: the first of these
        # that the data allows.
        "protocol": _one_of("auto", "official", "folds", "k_fold", "holdout"),
        "num_folds": _at_least(0, 0),  # of cross-validation over subjects
        "fold": _at_least(-1, -1),  # the fold to run, from 0; -1: all in turn
        "test_fraction": _share(0.2),  # of the subjects, with "holdout"
        "validation_fraction": _share(0.2),  # of the training subjects, for choosing a checkpoint
        "split_seed": _at_least(0, 0),
    },
    "landmarks": {
        # The head motion to remove: translation of the nose tip ("nose") or of the mean of the nose's points, which is
        # steadier ("nose_mean"), also rotation in the plane and scale ("similarity"), or only the position of the first
        # frame ("first_frame", like the released code).
        "normalise": _one_of("nose", "nose_mean", "first_frame", "similarity"),
        "frontalise": False,  # first turn the head to the front; needs landmarks with depth
    },
    # Weights to start from: a .pth or .safetensors file, a folder made by convert_weights, or a run.
    "init": {
        "all": "",  # the whole model
        "rgb": "",  # the frame encoder; takes precedence over "all"
        "trajectory": "",  # the trajectory encoder; takes precedence over "all"
        "tables": _one_of("released", "centred"),  # from position tables of another T, take the first or middle rows
    },
    # Paths of parameters that are not trained, such as ("rgb_encoder", "trajectory_encoder/stage_0_*"). Their running
    # statistics stay fixed, too, but training still normalises by the batch.
    "freeze": (),
    "augment": {
        "crop": True,
        "flip": _share(0.5),  # share of clips whose frames are flipped
        "flip_trajectory": False,  # also mirror the trajectory of a flipped clip
        "reverse_time": _share(0.5),  # share of clips whose trajectory is reversed
        "reverse_frames": False,  # also reverse the frames of a reversed clip
        # Of trajectories only, and not in the paper; docs/few_people.md says what they change.
        "warp": Option(0.0, low=0, high=0.9),  # largest change of pace; 0.3: moments pass 0.7 to 1.3 times as fast
        "noise": _at_least(0, 0.0),  # largest standard deviation of noise on positions, in pupil distances
        "landmark_dropout": _share(0.0),  # share of landmarks that are hidden, a different set in each clip
    },
    "loss": {
        # bmc: balanced MSE over the ratings of a batch, as published; balanced_mse: over all training ratings; gai:
        # over a mixture of Gaussians fitted to them. See docs/scoring.md for which to choose.
        # landmarks: ignore the ratings, to train the frame encoder only by loss.landmarks; see docs/frames.md.
        "name": _one_of("bmc", "balanced_mse", "gai", "mse", "cross_entropy", "landmarks"),
        "sigma": _at_least(1e-3, 1.0),  # for the balanced losses: the noise of a rating
        "components": _at_least(1, 8),  # for gai
        "swapped": False,  # for bmc, like the released code: exchange prediction and target
        # Weight of a second target of the frame encoder: a linear map of its features must find the landmarks in each
        # frame. Mean squared error in units of half the picture. 0 as published; no effect without frames.
        "landmarks": _at_least(0, 0.0),
    },
    # From the model's raw value to a score on the rating scale; see ``output``.
    "output": {
        # training: the expected rating if ratings are as frequent as in training; balanced: if they are equally
        # frequent; clip: the raw value, limited to the scale; auto: clip for mse, which has no likelihood to decode
        # with, else training.
        "decode": _one_of("auto", "training", "balanced", "clip"),
        # What to fit to validation people before decoding, if there are enough of them: a straight line; a line bent by
        # isotonic regression; nothing. auto: bent from ``output.MANY_PEOPLE`` people on, else straight.
        "fit": _one_of("auto", "line", "isotonic", "none"),
    },
    "optimizer": {
        "name": _one_of("sgd", "adam"),
        "learning_rate": _at_least(0, 1e-3),
        "momentum": _share(0.9),
        "weight_decay": _at_least(0, 0.0),
        "schedule": _one_of("step", "cosine"),  # cosine falls to 0 at the last step
        "decay_every": _at_least(1, 40),  # epochs, for "step"
        "decay_factor": _share(0.1),
        "clip_norm": _at_least(0, 0.0),  # largest norm of the whole gradient; 0: no limit
        "warmup_epochs": _at_least(0, 0.0),
    },
    "train": {
        "batch_size": _at_least(1, 4),
        "accumulate": _at_least(1, 1),  # cut each batch into this many parts, computed one by one, to save memory
        "epochs": _at_least(1, 100),
        "passes_per_epoch": _at_least(1, 5),
        "min_steps_per_epoch": _at_least(1, 1),  # with few clips, an epoch passes over them more often
        "evaluate_every": _at_least(1, 1),  # epochs
        # none: read clips from disk in every epoch. host, device: read them once, and keep decoded frames in the memory
        # of the host or, for training clips, of the device. The result is the same.
        "cache": _one_of("none", "host", "device"),
        "reader_threads": _at_least(0, 2),
        "read_ahead_mb": _at_least(0, 256),  # memory for batches read before they are needed
        # Decay of an exponential average of the parameters and running statistics, which ignores the initial ones.
        # Evaluation, the choice of the checkpoint, scoring and export use the average. 0: none, as published.
        "ema": Option(0.0, low=0, high=0.99999),
        "keep_last": _at_least(1, 1),  # checkpoints kept besides the best one
    },
    "evaluation": {
        "batch_size": _at_least(1, 4),
        "frame_bucket": _at_least(1, 8),  # pad the distinct frames of a batch to a multiple of this
        "bootstrap": _at_least(0, 1000),
        "baselines": False,  # compare with simple methods, as cross-validation always does
    },
}

# Options of older runs, and their names now.
_MOVED = {
    "precision": "model.precision",
    "remat": "model.remat",
    "compat.scrambled_frames": "model.rgb.scrambled_frames",
    "compat.swapped_bmc": "loss.swapped",
}
_DROPPED = ("task", "tasks", "compat")


def base() -> ConfigDict:
    """The published model and recipe, unlocked: a recipe adds its data set's options and then locks it."""
    return ConfigDict(_defaults(OPTIONS))


FEW, PUBLISHED = "few", "published"
SIZES = (FEW,)  # of a recipe's data, for ``recipe_arguments``
FEW_BELOW = 100  # people; the published model needs more
FEW_FOLDS = 5  # of cross-validation with fewer people


def has_weights(config: ConfigDict) -> bool:
    """Whether training starts from given weights."""
    return any(config.init[part] for part in ("all", "rgb", "trajectory"))


def for_few_people(config: ConfigDict) -> None:
    """Adapts a recipe to 20 to 100 people: a small model of how the landmarks move, without frames.

    The published model has 25 M parameters and reads positions and frames, which is too much for so few people
    (docs/few_people.md). Three small models train side by side for a fixed number of steps. Validation people do not
    choose the checkpoint, so only a tenth of the training people are set aside.
    """
    config.data.update(padding="reflect", validation_fraction=0.1)
    config.landmarks.normalise = "nose_mean"
    config.model.update(streams="trajectory", members=3, ridge=True)
    config.model.head.hidden = ()
    config.model.trajectory.update(
        length=128,
        channels=channels.FOR_FEW_PEOPLE,
        patch=8,
        widths=(32,),
        embed_width=32,
        blocks_per_stage=1,
        table_frames=0,
        attention_dropout=0.1,
        drop_path=0.1,
    )
    config.augment.flip_trajectory = True
    config.loss.name = "mse"
    config.optimizer.update(name="adam", learning_rate=3e-3, schedule="cosine", weight_decay=0.3, clip_norm=1.0)
    config.train.update(batch_size=16, epochs=32, evaluate_every=32, passes_per_epoch=1, min_steps_per_epoch=3)
    config.evaluation.update(batch_size=16, baselines=True)


def _defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {}
    for name, value in options.items():
        if isinstance(value, Option):
            value = value.default
        defaults[name] = _defaults(value) if isinstance(value, dict) else value
    return defaults


def check(config: ConfigDict) -> None:
    """Checks every option by itself, before anything is opened.

    Raises:
      UserError: bad_option for a value that is not allowed; unknown_option for an option that does not exist.
    """
    options, given = dict(leaves(OPTIONS)), dict(leaves(config.to_dict()))
    check_names(given)
    for path, value in given.items():
        _check_value(path, value, options.get(path))


def check_names(paths: Iterable[str]) -> None:
    """Checks that options or groups of options, such as "model.rgb.widths" and "model.rgb", exist.

    Raises:
      UserError: unknown_option. Anything in ``data`` passes: each data set has options of its own there.
    """
    options = dict(leaves(OPTIONS))
    groups = {path[:end] for path in options for end, letter in enumerate(path) if letter == "."}
    for path in paths:
        if path not in options and path not in groups and not path.startswith("data."):
            hint = f" (now {_MOVED[path]})" if path in _MOVED else _hint(path, options)
            raise UserError("unknown_option", f"{path}: no such option{hint}")


def _check_value(path: str, value: Any, option: Any) -> None:
    if not isinstance(option, Option):
        defaults, sizes = (each if isinstance(each, list | tuple) else (each,) for each in (option, value))
        if type(next(iter(defaults), None)) is int and not all(type(n) is int and 0 < n <= MOST for n in sizes):
            raise UserError("bad_option", f"{path} is {value}; sizes are whole numbers from 1 to {MOST}")
        return
    if option.known:
        parts = str(value).split("+") if option.joined else [value]
        if unknown := [part for part in parts if part not in option.known]:
            known = ", ".join(option.known) + (', or several of them joined with "+"' if option.joined else "")
            raise UserError("bad_option", f"{path} is {value!r}{_hint(str(unknown[0]), option.known)}; known: {known}")
    elif not option.low <= value <= option.high:
        most = f" and at most {option.high:g}" if math.isfinite(option.high) else ""
        raise UserError("bad_option", f"{path} is {value}; it must be at least {option.low:g}{most}")


def _hint(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def streams(model: ConfigDict) -> str:
    """What the model of a ``model`` group reads: "both", "rgb" or "trajectory"."""
    return {"skateformer": "trajectory", "former_dfer": "rgb"}.get(model.name, model.streams)


def reads_frames(model: ConfigDict) -> bool:
    """Whether the model of a ``model`` group reads frames."""
    return streams(model) != "trajectory"


def reads_trajectories(model: ConfigDict) -> bool:
    """Whether the model of a ``model`` group reads trajectories."""
    return streams(model) != "rgb"


def leaves(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The options in nested groups, by dotted name: {"model": {"streams": "rgb"}} yields ("model.streams", "rgb")."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def of_run(former: Mapping[str, Any]) -> ConfigDict:
    """The configuration in a run's config.json. Options that are newer than the run get their defaults.

    Raises:
      TypeError: an option has the wrong type.
      UserError: bad_option for a value of ``model`` that is not allowed.
    """
    saved = dict(leaves(former))
    config = ConfigDict({name: value for name, value in former.items() if name not in (*_DROPPED, *_MOVED)})
    fit = saved.get("output.fit")
    if isinstance(fit, bool):
        config.output = {**former["output"], "fit": "auto" if fit else "none"}
    _fill(config, base())
    config.update_from_flattened_dict({new: saved[old] for old, new in _MOVED.items() if old in saved})
    if saved.get("compat.first_frame_centring"):
        config.landmarks.normalise = "first_frame"
    options, given = dict(leaves(OPTIONS)), dict(leaves(config.to_dict()))
    for path, option in options.items():
        default = option.default if isinstance(option, Option) else option
        if path not in given or not _is_like(given[path], default):
            raise TypeError(f"{path} is {given.get(path)!r:.80}, not a value like {default!r}")
        if path.startswith("model."):
            _check_value(path, given[path], option)
    return config


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value has the type of an option's default."""
    if isinstance(default, tuple):
        one = default[0] if default else ""
        return isinstance(value, list | tuple) and all(_is_like(each, one) for each in value)
    if type(default) is float:
        return type(value) in (int, float)
    return type(value) is type(default)


def _fill(config: ConfigDict, default: ConfigDict) -> None:
    for key, value in default.items():
        if key not in config:
            config[key] = value
        elif isinstance(value, ConfigDict):
            _fill(config[key], value)


def recipe_arguments(recipe: str, text: str, **known: Sequence[str]) -> dict[str, str]:
    """Reads what follows the colon in ``--config configs/RECIPE.py:ARGUMENTS``.

    Arguments are separated by commas, in any order and case. Each is VALUE or NAME=VALUE; ``known`` lists the possible
    values of each name.

    Raises:
      UserError: bad_option for an unknown value, or two values for one argument.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.rpartition("=")
        fitting = {
            argument: choice
            for argument, choices in known.items()
            for choice in choices
            if name in ("", argument) and choice.lower() == value.lower()
        }
        if not fitting or fitting.keys() & found.keys():
            problem = f"unknown argument {part!r}" if not fitting else f"{part!r} is a second {next(iter(fitting))}"
            listed = "; ".join(f"{argument}: {', '.join(choices)}" for argument, choices in known.items())
            raise UserError("bad_option", f"{recipe}:{text}: {problem}; known (separate by commas): {listed}")
        found |= fitting
    return found
