"""Trains a model: python train.py --config configs/synthetic.py [--workdir DIR] [--config.KEY=VALUE ...]"""

import pathlib

from absl import flags
from ml_collections import config_flags

from tramp_jax import commands

CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe to train, a file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/<config>/<time>.")
RESUME = flags.DEFINE_bool("resume", False, "Continue the run in --workdir from its last checkpoint.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the run in --workdir.")


def main() -> None:
    workdir = pathlib.Path(WORKDIR.value) if WORKDIR.value else None
    commands.train(CONFIG.value, workdir, RESUME.value, OVERWRITE.value)


if __name__ == "__main__":
    commands.run(main)
