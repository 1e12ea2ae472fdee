"""The base configuration: every option with its published value. Files in ``configs/`` derive from it."""

from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """The published model and recipe; unlocked, so that a recipe can add to it before it locks it."""
    compat = ConfigDict(
        {
            # Behaviour of the released code where it differs from the paper; the paper is the default.
            "scrambled_frames": False,  # frames reinterpreted with their planes out of place
            "swapped_bmc": False,  # BMC called with label and prediction exchanged
        }
    )
    numerics = ConfigDict({"precision": "float32", "remat": False})
    return ConfigDict(
        {
            "name": "base",
            # One of ``tasks``: options that are put in place of the recipe's, unless the command line sets them.
            "task": "",
            "tasks": {},
            "seed": 0,
            # What products are computed in: "float32" or "bfloat16"; parameters, statistics, softmax and loss are
            # float32 with both. On GPUs and TPUs float32 products still take the hardware's default precision.
            "precision": numerics.get_ref("precision"),
            # Recompute what is inside the encoders' blocks in the backward pass: less memory, more time.
            "remat": numerics.get_ref("remat"),
            "compat": compat,
            "model": model(compat, numerics),
            "data": ConfigDict(
                {
                    "name": "",  # a key of tramp_jax.data.datasets.READERS
                    "root": "",
                    "expression": "",  # train and test on this expression alone; "" for all
                    "target": "",  # which rating to learn where clips have several; "" for the main score
                    "skip_bad": False,  # check every clip first and train on those without a fault
                    "still": False,  # control: every clip is its first frame repeated, so that only identity is left
                    "truncation": "random",  # training clips longer than T: a "random" run of frames or the "last"
                    # Clips too short for a stream: "loop", "zero", "repeat" of the last frame, or a "spline" to T.
                    "padding": "loop",
                    # What training shows of clips with more frames than the frame stream: "random" frames in order,
                    # a random run of "consecutive" ones, or "uniform" ones, as testing does.
                    "frame_choice": "random",
                    # "official" lists, published "folds", "k_fold" or "holdout"; auto: the first that the data allows.
                    "protocol": "auto",
                    "num_folds": 0,  # of cross-validation over subjects
                    "fold": -1,  # which fold to run; -1 for all in turn
                    "test_fraction": 0.2,  # of the subjects, under "holdout"
                    "validation_fraction": 0.2,  # of the training subjects, to choose a checkpoint by
                    "split_seed": 0,
                }
            ),
            "landmarks": ConfigDict(
                {
                    # What is taken out of head motion: translation ("nose"), also rotation in the plane and scale
                    # ("similarity"), or the first frame's nose tip only ("first_frame", as the released code).
                    "normalise": "nose",
                    "frontalise": False,  # first turn the head to the front, where landmarks have depth
                }
            ),
            "init": ConfigDict(
                {
                    # Weights to start from: a .pth or .safetensors file, a folder made by convert_weights, or a run.
                    "all": "",  # the whole model
                    "rgb": "",  # the frame encoder; goes before "all"
                    "trajectory": "",  # the trajectory encoder; goes before "all"
                    "tables": "released",  # position tables of another T: first rows as released, or "centred"
                }
            ),
            # Paths of parameters that stay as they are, such as ("rgb_encoder", "trajectory_encoder/stage_0_*").
            # Running statistics below them stay, too; training still normalises by the batch.
            "freeze": (),
            "augment": ConfigDict(
                {
                    "crop": True,
                    "flip": 0.5,  # share of clips whose frames are flipped
                    "flip_trajectory": False,  # mirror the trajectory of a flipped clip, too
                    "reverse_time": 0.5,  # share of clips whose trajectory is reversed
                    "reverse_frames": False,  # reverse the frames of a reversed clip, too
                }
            ),
            "loss": ConfigDict({"name": "bmc", "sigma": 1.0}),
            "optimizer": ConfigDict(
                {
                    "name": "sgd",  # or "adam"
                    "learning_rate": 1e-3,
                    "momentum": 0.9,
                    "weight_decay": 0.0,
                    "decay_every": 40,  # epochs
                    "decay_factor": 0.1,
                    "clip_norm": 0.0,  # largest norm of the whole gradient; 0 for none
                    "warmup_epochs": 0.0,
                }
            ),
            "train": ConfigDict(
                {
                    "batch_size": 4,
                    "accumulate": 1,  # cut each batch into so many parts, one after the other, to save memory
                    "epochs": 100,
                    "passes_per_epoch": 5,
                    "evaluate_every": 1,  # epochs
                    # Clips are read again each time ("none"), or once, with their decoded frames kept in the memory
                    # of the "host" or, those to train on, of the "device". The outcome is the same.
                    "cache": "none",
                    "reader_threads": 2,
                    "read_ahead_mb": 256,  # memory for batches that are read before they are needed
                    "keep_last": 1,  # checkpoints kept besides the best one
                }
            ),
            "evaluation": ConfigDict(
                {
                    "batch_size": 4,
                    "frame_bucket": 8,  # distinct frames of a batch are padded to a multiple of this
                    "bootstrap": 1000,
                }
            ),
        },
        convert_dict=True,
    )


def with_task(config: ConfigDict, given: Collection[str] = ()) -> ConfigDict:
    """The configuration with the options of its ``task`` in place.

    Args:
      config: a whole configuration.
      given: paths of options, such as "data.target", that the user has set: the task leaves them as they are.

    Raises:
      ValueError: there is no such task.
    """
    if not config.task:
        return config
    if config.task not in config.tasks:
        known = ", ".join(config.tasks) or "none, for this recipe has one task alone"
        raise ValueError(f"task is {config.task!r}; known: {known}")
    result = config.copy_and_resolve_references()
    changes = dict(_leaves(config.tasks[config.task]))
    result.update_from_flattened_dict({path: value for path, value in changes.items() if path not in given})
    return result


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def model(compat: ConfigDict, numerics: ConfigDict) -> ConfigDict:
    """The ``model`` group at its published values (25.17 M parameters)."""
    return ConfigDict(
        {
            "precision": numerics.get_ref("precision"),
            "remat": numerics.get_ref("remat"),
            "name": "tramp_former",  # or an encoder with its own linear head: "skateformer", "former_dfer"
            "streams": "both",  # or "rgb", "trajectory"
            "trajectory": ConfigDict(
                {
                    "length": 128,  # T: 64, 128 or 256
                    "channels": "xyrgb",  # or "xy", "rgb"
                    # Hidden widths of the stem are 2 and 3 times this, 0: the number of channels. 5 lets "xy" or "rgb"
                    # start from weights for "xyrgb".
                    "stem_channels": 0,
                    "num_points": 63,
                    "widths": (128, 256, 256, 256),
                    "blocks_per_stage": 2,
                    "embed_width": 128,
                    "mlp_ratio": 2,
                    "neighbours": 9,
                    "distant": 7,
                    "local_frames": 8,
                    "table_frames": 32,  # global position tables are shared at the size for T = 256; 0: their own size
                    "bias_order": "tiled",  # as published; "time" is the evident intention
                    "input_scale": (
                        1.0,
                    ),  # of the channels, one for all or one each; published weights take them as they are
                    "attention_dropout": 0.5,
                    "drop_path": 0.2,
                }
            ),
            "rgb": ConfigDict(
                {
                    "num_frames": 80,
                    "image_size": 224,
                    "widths": (64, 128, 256, 512),
                    "clip_length": 16,
                    "spatial_heads": 8,
                    "spatial_mlp_dim": 512,
                    "temporal_depth": 3,
                    "temporal_heads": 8,
                    "temporal_mlp_dim": 1024,
                    "scrambled_frames": compat.get_ref("scrambled_frames"),
                }
            ),
            "fusion": ConfigDict({"width": 256, "depth": 3, "heads": 8, "mlp_ratio": 4}),
            "head": ConfigDict({"hidden": (128, 64), "num_classes": 0}),
        }
    )
