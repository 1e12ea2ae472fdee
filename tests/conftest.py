"""Shared fixtures. One model of the tiny configuration is initialised once for the whole run."""

import os
import pathlib
import subprocess
import sys

# Most of the suite's time would go into optimising programs that run once. What is computed is the same; the table in
# docs/parity.md is made with the defaults.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import pytest

from tests import tiny
from tramp_jax.models import init_variables

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def config():
    """The tiny configuration, unlocked and free to change."""
    return tiny.get_config().unlock()


@pytest.fixture(scope="session")
def tiny_variables():
    """Parameters of the tiny model."""
    return init_variables(tiny.get_config().model, jax.random.key(0))


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Runs a program of the repository as a user would: ``program("train.py", ...) -> CompletedProcess``.

    The programs of one test run share a compilation cache, so that only the first pays for compiling.
    """
    cache = tmp_path_factory.mktemp("compiled")

    def run(script: str, *arguments: object, devices: int = 1, wait: bool = True):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if not wait:
            return process
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run
