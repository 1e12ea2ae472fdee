"""Runs train.py or eval.py, its first argument, with the linear model.

If a signal and a step follow, such as SIGTERM and 2, the run gets this signal at that step.
"""

import contextlib
import functools
import pathlib
import runpy
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.conftest import ROOT
from tests.linear import calls_at, linear_model

if __name__ == "__main__":
    with linear_model(), contextlib.ExitStack() as stopping:
        script = sys.argv.pop(1)
        if sys.argv[1] in signal.Signals.__members__:
            name, step = sys.argv[1:3]
            del sys.argv[1:3]
            stopping.enter_context(calls_at(int(step), functools.partial(signal.raise_signal, signal.Signals[name])))
        runpy.run_path(str(ROOT / script), run_name="__main__")
