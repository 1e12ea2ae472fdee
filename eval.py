"""Scores a split with a trained model: python eval.py --workdir DIR [--checkpoint last|best|STEP] [--split test]"""

from absl import flags

from tramp_jax.cli import scripts
from tramp_jax.files import expanded

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "last, best (by validation subjects) or a step number.")
SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "New folder of the data, if it has moved since training.")


def main() -> None:
    from tramp_jax import experiment  # here, so that --help does not wait for JAX

    experiment.evaluate(expanded(WORKDIR.value), CHECKPOINT.value, SPLIT.value, DATA_ROOT.value)


if __name__ == "__main__":
    scripts.run(main)
