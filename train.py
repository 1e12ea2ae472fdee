"""Trains a model: python train.py --config configs/synthetic.py [--workdir DIR] [--config.KEY=VALUE ...]"""

from absl import flags
from ml_collections import config_flags

from tramp_jax.cli import scripts
from tramp_jax.files import check_place, expanded

CONFIG = config_flags.DEFINE_config_file("config", None, f"Recipe to train: {', '.join(scripts.recipes())}.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config>/<time>.")
RESUME = flags.DEFINE_bool("resume", False, "Continue the run in --workdir from its last checkpoint.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the run in --workdir.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes that SLURM or a TPU pod started.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "Join several processes: HOST:PORT of the first one.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0, with --coordinator.")


def main() -> None:
    from tramp_jax import experiment, sharding  # here, so that --help does not wait for JAX

    if DISTRIBUTED.value or COORDINATOR.value:
        sharding.join_processes(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    workdir = expanded(WORKDIR.value) if WORKDIR.value else None
    if workdir:
        check_place(workdir)
    config = scripts.chosen(flags.FLAGS["config"], workdir if RESUME.value else None)
    experiment.train(config, workdir, RESUME.value, OVERWRITE.value)


if __name__ == "__main__":
    scripts.run(main)
