"""Imports run one way: no circles, and neither ``data/`` nor ``models/`` knows the other or a room that uses it."""

import ast
import graphlib

import pytest

from tests.conftest import ROOT

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("tramp_jax", "convert_weights", "configs", "benchmarks")
    for path in (ROOT / package).rglob("*.py")
}
ABOVE = [f"tramp_jax.{room}" for room in ("batches", "preprocess", "scoring", "report", "export", "studies", "cli")]
RULES = [("data", ["jax", "flax", "tramp_jax.models"]), ("models", ["tramp_jax.data"])]


def imports(path):
    """The modules that a module imports when it is imported itself."""
    nodes = ast.parse(path.read_text()).body
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = [(node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    return found | {whole if (whole := f"{module}.{name}") in FILES else module for module, name in named}


def test_no_modules_import_each_other_in_a_circle():
    graphlib.TopologicalSorter({name: imports(path) - {name} for name, path in FILES.items()}).prepare()


@pytest.mark.parametrize(("room", "others"), RULES)
def test_a_room_imports_nothing_above_it(room, others):
    inside = [each for name, path in FILES.items() if name.startswith(f"tramp_jax.{room}") for each in imports(path)]
    assert len(inside) > 20
    assert not [each for each in inside if f"{each}.".startswith(tuple(f"{other}." for other in others + ABOVE))]
