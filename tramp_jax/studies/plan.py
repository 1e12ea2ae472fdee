"""Turns a study file into runs.

A study file (``studies/*.toml``) holds:

    title = "..."
    data = ["pfed5"]                # optional: the clinical data it is meant for, or []; default: PFED5 and NeuroFace
    reference = "..."               # optional: the row to compare the others with; default: the first
    [on.DATA]                       # optional: options of every row, on this data set
    [columns.DATA]                  # optional: options of each column, instead of the recipe's columns
    [[rows]]
    name = "..."
    method = "random forest"        # optional: a simple method (``simple.METHODS``) instead of training a model
    paper.DATA = [...]              # optional: the paper's figures × 100: each column's and the mean, or only the mean
    on.DATA.model.streams = "rgb"   # optional: options of the row, on this data set
    model.streams = "rgb"           # anything else is an option of ``tramp_jax.config``

DATA is a recipe in ``configs/``. Options apply in this order: recipe, ``--quick``, study, column, row.
"""

import dataclasses
import itertools
import pathlib
import re
import runpy
import sys
import tomllib
import unicodedata
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from tramp_jax import config as options
from tramp_jax.errors import UserError
from tramp_jax.studies.simple import METHODS

STUDIES, RECIPES = pathlib.Path("studies"), pathlib.Path("configs")
MEAN = "mean"  # the name of the mean over columns
TRAINING = ""  # the ``method`` of a row that trains a model
Options = dict[str, Any]  # by their dotted names
_GROUPS = tuple(options.base())  # names of ``tramp_jax.config``, which a row may set


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: a model and how to train it."""

    name: str
    options: Options  # what differs from the study's recipe
    method: str = TRAINING  # ``TRAINING``, or a simple method
    # The paper's figures × 100, for each column and their mean, or only for the mean; () if there are none.
    paper: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """A study on one data set."""

    name: str
    title: str
    data: str  # the recipe, such as "pfed5" or "synthetic:few"
    reference: str  # the name of the row to compare the others with
    rows: tuple[Row, ...]
    columns: Mapping[str, Options]  # options of each column, such as an expression; a single column is called ""
    recipe: Mapping[str, Any]  # what the recipe's file defines
    meant_for: tuple[str, ...]  # recipes of the clinical data it is meant for
    # The published number of training clips in each column over all folds; empty if unknown.
    expected_clips: Mapping[str, int]
    quick: bool  # whether settings are tiny. This only proves that everything runs.


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, or one fit of a simple method."""

    row: Row
    column: str
    seed: int
    config: ConfigDict
    folder: pathlib.Path

    @property
    def outcome(self) -> pathlib.Path:
        """The file that says how the run ended."""
        return self.folder.with_suffix(".json")

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.row.name, self.column, f"seed {self.seed}")))


def load(name: str, data: str, quick: bool = False) -> Study:
    """Reads a study.

    Args:
      name: the name of a file in ``studies/``, or the path of a .toml file.
      data: a recipe in ``configs/``, with arguments after a colon if it takes any.

    Raises:
      UserError: missing_study, bad_study, missing_recipe.
    """
    path = pathlib.Path(name) if name.endswith(".toml") else STUDIES / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(each.stem for each in STUDIES.glob("*.toml"))) or "none"
        message = f"{path}: no such study; {STUDIES}/ holds: {known}; give one of these, or the path of a .toml file"
        raise UserError("missing_study", message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError("bad_study", f"{path}: not a TOML file ({error})") from error
    recipe_name = data.partition(":")[0]
    recipe = _recipe(recipe_name)
    try:
        unknown = content.keys() - {"title", "data", "reference", "rows", "on", "columns"}
        rows = content.get("rows", [])
        if unknown or not rows or not all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows):
            wrong = f"unknown entry {min(unknown)!r}" if unknown else "no [[rows]], or a row without a name"
            raise UserError("bad_study", f"{path}: {wrong}; see tramp_jax/studies/plan.py for what a study file holds")
        shared = _flat(content.get("on", {}).get(recipe_name, {}))
        own = content.get("columns", {}).get(recipe_name, {})
        columns = {name: shared | _flat(own.get(name, {})) for name in own or recipe.get("COLUMNS", [""])}
        study = Study(
            path.stem,
            content.get("title", path.stem),
            data,
            content.get("reference", rows[0]["name"]),
            tuple(_row(path, row, recipe_name) for row in rows),
            columns,
            recipe,
            tuple(content.get("data", ("pfed5", "neuroface"))),
            recipe.get("EXPECTED_CLIPS", {}),
            quick,
        )
    except (AttributeError, TypeError) as error:
        message = f"an entry has the wrong form ({error}); see tramp_jax/studies/plan.py for what a study file holds"
        raise UserError("bad_study", f"{path}: {message}") from error
    _check(path, study)
    return study


def _row(path: pathlib.Path, content: Mapping[str, Any], data: str) -> Row:
    own = {key: value for key, value in content.items() if key not in ("name", "method", "paper", "on")}
    if unknown := own.keys() - set(_GROUPS):
        what = f"row {content['name']!r}: {min(unknown)!r} is not an option"
        raise UserError("bad_study", f"{path}: {what}; see tramp_jax/config.py for all options")
    given = _flat(own) | _flat(content.get("on", {}).get(data, {}))
    paper = tuple(content.get("paper", {}).get(data, ()))
    if not all(type(figure) in (int, float) for figure in paper):
        raise UserError("bad_study", f"{path}: row {content['name']!r}: paper.{data} must hold numbers")
    return Row(content["name"], given, content.get("method", TRAINING), paper)


def _check(path: pathlib.Path, study: Study) -> None:
    names = [row.name for row in study.rows]
    rows = [slug(name) for name in names]
    columns = [slug(column) for column in study.columns if column]
    if "" in rows + columns or MEAN in columns or any(len(set(each)) < len(each) for each in (rows, columns)):
        wrong = "two rows or two columns have the same name, or a name has no letter a to z and no digit"
        raise UserError("bad_study", f"{path}: {wrong}, or a column is called {MEAN!r}; rename it")
    if study.reference not in names:
        raise UserError("bad_study", f"{path}: reference is {study.reference!r}, but the rows are: {', '.join(names)}")
    for row in study.rows:
        if row.method and row.method not in METHODS:
            known = ", ".join(METHODS)
            raise UserError("bad_study", f"{path}: row {row.name!r} has method {row.method!r}; known: {known}")
        if len(row.paper) not in (0, 1, len(study.columns) + 1):
            wanted = f"{len(study.columns)} figures and their mean, or only the mean"
            raise UserError("bad_study", f"{path}: row {row.name!r}: paper.{study.data} must hold {wanted}")


def runs(study: Study, root: str, out: pathlib.Path, seeds: int) -> list[Run]:
    """The runs of a study in their order: all rows with the first seed, then all rows with the next one.

    ``root`` is the folder of the data, "" for the recipe's. A row's or column's own ``data.root`` is relative to it.

    Raises:
      UserError: unknown_option, bad_option.
    """
    found = []
    for seed, row, (column, given) in itertools.product(range(seeds), study.rows, study.columns.items()):
        config = _config(study, row, column, given)
        if root:
            inside = (given | row.options).get("data.root", "")
            config.data.root = str(pathlib.Path(root) / inside)
        config.seed = seed
        options.check(config)
        place = out / "runs" / slug(row.name) / slug(column) / str(seed)
        found.append(Run(row, column, seed, config.lock(), place))
    return found


def _config(study: Study, row: Row, column: str, of_column: Options) -> ConfigDict:
    """The configuration of a row and column."""
    name, _, argument = study.data.partition(":")
    named = column if column in study.recipe.get("COLUMNS", ()) else ""
    arguments = ",".join(filter(None, (argument, named)))
    config = study.recipe["get_config"](*filter(None, [arguments]))  # some recipes take no arguments
    config = config.copy_and_resolve_references().unlock()
    config.name = f"{slug(study.name)}_{slug(row.name)}"
    if study.quick:
        _shrink(config)
    for option, value in (of_column | row.options).items():
        where = f"study {study.name}, row {row.name!r}: {option}"
        options.check_names([option])
        group, _, last = option.rpartition(".")
        target = config
        for part in filter(None, group.split(".")):
            target = target.get(part)
        if not isinstance(target, ConfigDict) or last not in target:
            what = f"{where}: the recipe {RECIPES}/{name}.py has no such option"
            raise UserError("unknown_option", f"{what}; remove it, or set it under on.DATA of recipes that have it")
        old = target[last]
        if isinstance(value, list):
            value = tuple(value)
        if type(old) is float and type(value) is int:
            value = float(value)
        if type(value) is not type(old):
            raise UserError("bad_option", f"{where} is {value!r}; it takes a value such as {old!r}")
        target[last] = value
    return config


def _shrink(config: ConfigDict) -> None:
    """Sets tiny sizes, so that everything runs in seconds. The model's scores are then meaningless."""
    model = config.model
    model.trajectory.update(widths=(32,), embed_width=32, blocks_per_stage=1, length=64)
    model.rgb.update(num_frames=16, image_size=32, widths=(8, 8, 16, 16), spatial_heads=2, spatial_mlp_dim=16)
    model.rgb.update(temporal_depth=1, temporal_heads=2, temporal_mlp_dim=16)
    model.fusion.update(width=32, heads=2, depth=1)
    model.head.hidden = (16,)
    config.train.update(epochs=1, passes_per_epoch=1, batch_size=4, evaluate_every=1)
    config.evaluation.update(bootstrap=0, batch_size=8, baselines=False)
    if "num_subjects" in config.data:
        config.data.update(num_subjects=20, clips_per_subject=1)


def _recipe(name: str) -> dict[str, Any]:
    """What the file of a recipe defines.

    Raises:
      UserError: missing_recipe if it, or what it imports, does not exist.
    """
    path = RECIPES / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in RECIPES.glob("[!_]*.py"))) or "none; run this in the clone"
        raise UserError("missing_recipe", f"--data {name}: no {path} here; known: {known}")
    here = str(pathlib.Path.cwd())
    if here not in sys.path:  # as in train.py, so that a recipe can build on another one
        sys.path.append(here)
    try:
        return runpy.run_path(str(path))
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("configs"):
            raise
        raise UserError(
            "missing_recipe", f"{path}: {error}; run this in the clone, or put what is missing here"
        ) from error


def _flat(nested: Mapping[str, Any]) -> Options:
    return dict(options.leaves(nested))


def slug(name: str) -> str:
    """A name as part of a path: "C = 5, loop" as "c-5-loop"."""
    plain = unicodedata.normalize("NFKD", name.lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.")
