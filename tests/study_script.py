"""Runs ``tramp-jax`` with the linear model, for test_studies. SIGKILL ends it when its second training is at step 5."""

import itertools
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.linear import calls_at, linear_model
from tramp_jax import cli

if __name__ == "__main__":
    number = itertools.count()

    def kill() -> None:
        if next(number) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with linear_model(), calls_at(5, kill):
        cli.main(sys.argv[1:])
