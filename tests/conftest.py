"""Shared fixtures. One model of the tiny configuration is initialised once for the whole run."""

import functools
import gc
import importlib.metadata
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
# What one test, or a program that it starts, has compiled is not compiled again, even in the next run. The name of a
# compiled program depends on everything in it, so nothing here is ever out of date.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / "build" / "compiled")
# What tests compile, here or in the programs that they start, runs a few times: to optimise it would take longer.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
EMITTERS = "xla_cpu_use_fusion_emitters"  # take twice as long to compile as XLA's former way
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an XLA that does not know the flag would end the process
    os.environ.setdefault("XLA_FLAGS", f"--{EMITTERS}=false")
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}  # more threads would slow down the worker of each core
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tolerances are those of float32 without TF32

import jax
import pytest
from jax._src import compiler  # has no public way to set an option of all programs

from tests import tiny
from tramp_jax.cli import scripts
from tramp_jax.data.readers import synthetic
from tramp_jax.models import init_variables
from tramp_jax.report import plots

scripts.quick_start()  # repairs what a killed test run left half written
synthetic._drawn = functools.lru_cache(8)(synthetic._drawn.__wrapped__)  # tests take turns with a few sets of faces

# These files start first, so that the workers end together.
HEAVIEST = ["parity", "commands", "benchmarks", "scoring", "report_attribution", "studies", "trainer", "few_people"]


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes, as .ci/run does")


def pytest_collection_finish():
    gc.freeze()  # what all tests import stays, so no search of it finds anything


def pytest_collection_modifyitems(config, items):
    heaviest = {f"test_{name}": place for place, name in enumerate(HEAVIEST)}
    items.sort(key=lambda item: heaviest.get(item.path.stem, len(heaviest)))
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="takes minutes; --slow runs it")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def config():
    """The tiny configuration, unlocked and free to change."""
    return tiny.get_config().unlock()


@pytest.fixture(scope="session")
def tiny_variables():
    """Parameters of the tiny model."""
    return init_variables(tiny.get_config().model, jax.random.key(0))


@pytest.fixture
def optimised():
    """Programs that are compiled meanwhile are those of a user, and worth optimising if they run often."""
    options = compiler.get_compile_options

    def as_usual(*arguments, env_options_overrides=None, **others):
        return options(*arguments, env_options_overrides={EMITTERS: True} | (env_options_overrides or {}), **others)

    with pytest.MonkeyPatch.context() as patched:
        if EMITTERS in os.environ.get("XLA_FLAGS", ""):
            patched.setattr(compiler, "get_compile_options", as_usual)
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def undrawn(monkeypatch):
    """Saves the time to draw reports, for tests of text only: every image is the same few bytes."""
    monkeypatch.setattr(plots, "_encode", lambda *_: b"\x89PNG")


@pytest.fixture(scope="session")
def program():
    """Runs a program of the repository as a user would: ``program("train.py", ...) -> CompletedProcess``.

    ``wait=False`` returns the running process instead. Other options are variables of its environment.
    """

    def run(script: str, *arguments: object, devices: int = 1, wait: bool = True, **environment: str):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)} | environment
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if not wait:
            return process
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def real_video():
    """Path of one of the real videos, ``real_video("single_face.mp4")``; skips where they are not at hand."""

    def find(name: str) -> pathlib.Path:
        path = ROOT.parent / "shared" / "videos" / name
        if not path.is_file():
            pytest.skip(f"needs the real video {name}, which is not part of the project")
        return path

    return find
