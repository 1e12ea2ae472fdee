"""What ``tramp-jax score`` writes: the table of scores, and a report for each input."""

import collections
import csv
import hashlib
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tramp_jax import shards
from tramp_jax.cli.pseudonyms import Pseudonyms, anonymous
from tramp_jax.data import tables
from tramp_jax.errors import UserError
from tramp_jax.files import shortened, write_atomically

if TYPE_CHECKING:
    from tramp_jax.data.clips import ClipInfo
    from tramp_jax.scoring import Scored, Scorer

OK, WITHHELD, FAILED, UNFINISHED = "ok", "withheld", "failed", "unfinished"
_SCORED = (OK, WITHHELD)
# fmt: off
COLUMNS = (
    "input", "status", "score", "low", "high", "level", "ratings", "raw", "expression", "frames", "frames_used", "fps",
    "missing_ratio", "outside", "jitter", "yaw", "landmarks", "model", "interval", "warnings", "reason", "report",
    "settings",
)
# fmt: on
_TEXTS = ("reason", "warnings", "interval")  # columns that may contain names


def identity(path: object) -> str:
    """The same string however the path is spelt: absolute, relative, or through links."""
    return os.path.realpath(str(path))


class Table:
    """The CSV file of scores. Rows are appended, and rows of other inputs stay.

    An input has one row, however its path is spelt and wherever the command runs; ``_cell`` says how it is named. The
    row is replaced if the input is scored again because it failed, or because the file, the model's calibration or an
    option has changed; but if that attempt fails, the earlier score stays. The table of a shard takes no rows from
    ``whole``, the table that it will be joined with, but ``find`` finds them.

    Raises:
      UserError: not_scores if the file exists but is not a table of scores; bad_option if it has names but should not,
        or has pseudonyms of another salt.
    """

    def __init__(self, path: Path, overwrite: bool, pseudonyms: Pseudonyms | None = None, whole: Path | None = None):
        self.path, self._pseudonyms = path, pseudonyms
        self._rows = {} if overwrite else self._keyed(path)
        self._joined = {} if overwrite or whole in (None, path) else self._keyed(whole)
        cells = (str(row["input"]) for row in (*self._rows.values(), *self._joined.values()))
        if elsewhere := next((x for x in cells if os.path.exists(x) and not os.path.exists(_folder(path) / x)), ""):
            sys.stderr.write(
                f"warning: {path}: {elsewhere} is here but not in the folder of the table. If an earlier version wrote "
                "this row, delete it; the input gets a new one\n"
            )

    def _keyed(self, path: Path) -> dict[str, dict[str, object]]:
        rows = _read(path) if path.exists() else []
        return {self._key_of_cell(str(row["input"]), path): row for row in rows}  # the last one is the newest

    def _key(self, path: str) -> str:
        return self._pseudonyms.of_input(path) if self._pseudonyms else identity(_writable(path))

    def _key_of_cell(self, cell: str, path: Path) -> str:
        if self._pseudonyms is None:
            if re.fullmatch(r"anon-\w{4}-\w{12}", cell):
                raise UserError("bad_option", f"{path} is anonymised; add --anonymise, or name another --out")
            return identity(_folder(path) / cell)
        if self._pseudonyms.new or not cell.startswith(self._pseudonyms.prefix):
            raise UserError(
                "bad_option",
                f"{path} has names, or pseudonyms from another salt; name another table with --out, name the right "
                "salt with --salt, or replace the table with --overwrite",
            )
        return cell

    def _settings(self, digest: str) -> str:
        return self._pseudonyms.digest(digest) if self._pseudonyms else digest

    def find(self, path: str, settings: str) -> dict[str, object] | None:
        """The input's row, if it was scored or withheld with these settings; else None."""
        for rows in filter(None, (self._rows, self._joined)):  # without rows, no pseudonym is needed yet
            row = rows.get(self._key(path))
            if row and row["status"] in _SCORED and row["settings"] == self._settings(settings):
                return row
        return None

    def check_model(self, model: str) -> None:
        """Refuses to mix scores of two models in one table.

        Raises:
          UserError: other_model.
        """
        _check_models(self.path, [{"model": model}, *self._rows.values(), *self._joined.values()])

    def expect(self, settings: Mapping[str, str]) -> None:
        """Makes this the table of a shard with these inputs and no others; those without a score are unfinished.

        Inputs that have a score in ``whole`` are left out.
        """
        rows: dict[str, dict[str, object]] = {}
        for path, digest in settings.items():
            key, found = self._key(path), self.find(path, digest)
            if found is None:
                rows[key] = {"input": key if self._pseudonyms else _cell(path, self.path), "status": UNFINISHED}
            elif found is self._rows.get(key):
                rows[key] = found
        self._rows = rows

    def __enter__(self) -> "Table":
        _write(self.path, self._rows.values())
        self._file = self.path.open("a", newline="", encoding="utf-8", errors="backslashreplace")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        _write(self.path, self._rows.values())  # without the rows that were replaced

    def add(self, row: dict[str, object], info: "ClipInfo | None" = None) -> bool:
        """Appends the row of one input, whose clip is ``info``. It is on disk when this returns.

        Returns False, and adds nothing, if the row says that an attempt failed and the table has an earlier score.
        """
        path = str(row["input"])
        key = self._key(path)
        if self._pseudonyms:
            texts = {column: self._pseudonyms.hide(str(row.get(column, "")), path, info) for column in _TEXTS}
            row = row | texts | {"input": key, "settings": self._settings(str(row["settings"]))}
        else:
            row = row | {"input": _cell(path, self.path)}
        if not _replace(self._rows, key, row):
            return False
        self._file.write(tables.csv_text([[row.get(column, "") for column in COLUMNS]]))
        self._file.flush()
        return True


def _replace(rows: dict[str, dict[str, object]], key: str, row: dict[str, object]) -> bool:
    """Makes ``row`` the one of its input, unless it says that an attempt failed and there is an earlier score."""
    if row["status"] == FAILED and rows.get(key, row)["status"] in _SCORED:
        return False
    rows[key] = row
    return True


def collect(out: Path, overwrite: bool) -> int:
    """Moves the rows of all shards' tables into ``out``, says how many there are, and returns the exit code.

    Raises:
      UserError: unfinished_shard if a shard still has work to do.
    """
    parts = shards.collected(out)
    found = [{str(row["input"]): row for row in _read(part)} for part in parts]  # the last row is the newest
    cells = collections.Counter(cell for part in found for cell in part)
    rows = shards.interleaved([list(part.values()) for part in found])
    if left := [str(row["input"]) for row in rows if row["status"] == UNFINISHED]:
        message = f"{out}: {len(left)} inputs of unfinished shards have no score yet, such as {left[0]}"
        raise UserError("unfinished_shard", f"{message}; run those shards again")
    if twice := next((cell for cell, count in cells.items() if count > 1), ""):
        message = f"{out}: {twice} is in the tables of two shards, so they had different inputs"
        raise UserError("unfinished_shard", f"{message}; run all shards again with the same ones")
    if out.exists() and not overwrite:
        rows = [*_read(out), *rows]
    _check_models(out, rows)
    joined: dict[str, dict[str, object]] = {}
    for row in rows:  # the last row of an input is the newest
        _replace(joined, identity(_folder(out) / str(row["input"])), row)
    _write(out, joined.values())
    for part in parts:
        part.unlink()
    failed = sum(row["status"] == FAILED for row in joined.values())
    sys.stdout.write(f"{out}: {len(joined)} rows, of which {failed} failed\n")
    return 0


def _folder(table: Path) -> Path:
    """The folder of a table, with symbolic links resolved."""
    return Path(os.path.realpath(table)).parent


def _cell(path: str, table: Path) -> str:
    """What a table calls an input: its path relative to the table's folder if it lies below it, else its whole path."""
    full, folder = Path(os.path.abspath(path)), _folder(table)
    cell = full.relative_to(folder) if full.is_relative_to(folder) else full
    return str(cell) if identity(folder / cell) == identity(path) else identity(path)


def _writable(text: str) -> str:
    """The text as written to a table: bytes of a file's name that are not UTF-8 are escaped."""
    return text.encode(errors="backslashreplace").decode()


def _check_models(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Raises UserError (other_model) unless the rows of a table, except failed ones, are of one model."""
    models = [str(row["model"]) for row in rows if row.get("model")]
    if others := sorted(set(models) - set(models[:1])):
        raise UserError(
            "other_model",
            f"{path} has scores of another model ({others[0]}, not {models[0]}); name another table with --out, or "
            "replace it with --overwrite",
        )


def _write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    cells = ([row.get(column, "") for column in COLUMNS] for row in rows)
    write_atomically(path, tables.csv_text([COLUMNS, *cells]).encode(errors="backslashreplace"))


def _read(path: Path) -> list[dict[str, object]]:
    """Reads the rows of a table of scores. Skips a row that was cut short, or that a crash has filled with zeros."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
    except (ValueError, csv.Error):  # another encoding, or empty
        header, rows = [], []
    if tuple(header) != COLUMNS:
        raise UserError("not_scores", f"{path} is not a table written by this version; name another file with --out")
    rows = [row for row in rows if len(row) == len(COLUMNS) and "\0" not in "".join(row)]
    whole = (map(tables.unguarded, row) for row in rows)
    return [dict(zip(COLUMNS, row, strict=True)) for row in whole]


class Reports:
    """Writes a report for each input under a unique name."""

    def __init__(self, folder: Path, attribute: bool, pseudonyms: Pseudonyms | None, model: str):
        self._folder, self._attribute, self._pseudonyms, self._model = folder, attribute, pseudonyms, _digest(model)

    def path(self, path: str) -> Path:
        """The report's file, named after the input, its path and the model, because names such as smile.mp4 repeat."""
        name, ending = "" if self._pseudonyms else Path(path).stem or "clip", self._ending(path)
        return self._folder / f"{shortened(name, len(ending))}{ending}"

    def _ending(self, path: str) -> str:
        if self._pseudonyms:
            return f"{self._pseudonyms.of_input(path)}-{self._model}.html"
        return f"-{_digest(identity(path))}-{self._model}.html"

    def has(self, path: str, row: dict[str, object]) -> bool:
        """Whether the report of an input exists and belongs to its row."""
        name = str(row["report"])
        return name.endswith(self._ending(path)) and (self._folder / name).exists()

    def write(self, path: str, scorer: "Scorer", scored: "Scored") -> str:
        """Writes the report and returns its file name."""
        from tramp_jax.report.writer import write_report

        evidence = scorer.evidence(scored, self._attribute)
        write_report(self.path(path), anonymous(evidence, path, self._pseudonyms) if self._pseudonyms else evidence)
        return self.path(path).name


def _digest(text: str) -> str:
    return hashlib.sha256(_writable(text).encode()).hexdigest()[:6]


def row_of(scorer: "Scorer", scored: "Scored") -> dict[str, object]:
    """The cells of an input that was scored, except for its name, its settings and its report."""
    low, high = (f"{end:.4f}" for end in scored.interval) if scored.interval else ("", "")
    return {
        "status": WITHHELD if scored.withheld else OK,
        "reason": scored.withheld,
        "score": _number(scored.score, 4),
        "ratings": " ".join(f"{rating:g}" for rating in scored.ratings),
        "raw": "" if scored.withheld else " ".join(f"{value:.4f}" for value in scored.raw),
        "low": low,
        "high": high,
        "level": scored.level or "",
        "expression": scored.clip.info.expression,
        "frames": len(scored.clip.landmarks),
        "frames_used": scored.frames_used,
        "fps": f"{scored.clip.fps:g}",
        "missing_ratio": _number(scored.missing_ratio, 4),
        "outside": _number(scored.quality.share_outside, 4),
        "jitter": _number(scored.quality.relative_jitter, 4),
        "yaw": _number(scored.quality.largest_yaw, 1),
        "landmarks": scored.landmark_source,
        "model": model_ids(scorer),
        "interval": scored.note,
        "warnings": "; ".join(scored.warnings),
    }


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def model_ids(scorer: "Scorer") -> str:
    """What the table calls the models."""
    return " ".join(member.id for member in scorer.members)
