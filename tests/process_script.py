"""Runs train.py with the linear model, for test_trainer. With --stop as its first argument, SIGTERM ends it early."""

import contextlib
import pathlib
import runpy
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.conftest import ROOT
from tests.linear import linear_model, terminated_at

if __name__ == "__main__":
    with linear_model(), contextlib.ExitStack() as stopping:
        if sys.argv[1] == "--stop":
            del sys.argv[1]
            stopping.enter_context(terminated_at(2))
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
