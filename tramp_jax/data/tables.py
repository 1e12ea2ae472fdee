"""Reads lists from CSV files and Excel workbooks, as the same text from both."""

import csv
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tramp_jax.data.problems import Problems

SUFFIXES = (".csv", ".xlsx")
_OTHER_SPREADSHEETS = (".xls", ".xlsb", ".ods", ".numbers")


def number(text: str) -> float | None:
    """The value of a plain decimal number such as "3", "-1" or "2.5"; None for any other text."""
    return float(text) if re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)", text, re.ASCII) else None


def whole(text: str) -> int | None:
    """The value of a whole number, including the "3.0" of spreadsheets; None for any other text."""
    value = number(text)
    return int(value) if value is not None and value.is_integer() else None


def find(folder: Path, names: Sequence[str], option: str, problems: Problems) -> Path | None:
    """Finds the table in a folder with one of these names, such as "clips.csv", or the same as a workbook.

    Args:
      folder: an existing folder.
      names: possible names of the table.
      option: of the data set, to name another table.
      problems: takes ``ambiguous_list`` if there are several; then the first is used.

    Returns:
      Its path; None if there is none.
    """
    paths = [(folder / name).with_suffix(suffix) for name in names for suffix in SUFFIXES]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        problems.add(
            "ambiguous_list",
            f"{folder}: both {found[0].name} and {found[1].name} exist; remove one, or choose with "
            f"--config.data.{option}=FILE",
        )
    return found[0] if found else None


def read_rows(path: Path, problems: Problems) -> dict[int, list[str]]:
    """The non-empty rows of a CSV file, or of a workbook's first sheet: number (counted from 1) and stripped fields.

    The separator of a CSV file is the most frequent in its first line: comma, semicolon or tab. A number in a workbook
    becomes the text that a CSV file would have, "3" rather than "3.0". A formula becomes its last saved value.

    Args:
      path: an existing file; .xlsx is a workbook, and anything else comma-separated values.
      problems: takes ``unreadable_table`` if it is neither; then there are no rows.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHER_SPREADSHEETS:
        problems.add("unreadable_table", f"{path}: save the table as a CSV file or an Excel workbook (.xlsx)")
        return {}
    try:
        rows = _workbook(path) if suffix == ".xlsx" else _comma_separated(path)
    except csv.Error as error:
        problems.add("unreadable_table", f"{path}: not a table of comma-separated values ({error})")
        return {}
    except _WorkbookError as error:
        problems.add(
            "unreadable_table",
            f"{path}: damaged, encrypted, or not an Excel workbook ({error}); save the table as a CSV file",
        )
        return {}
    return {i: row for i, row in rows.items() if any(row)}


class _WorkbookError(Exception):
    pass


def _comma_separated(path: Path) -> dict[int, list[str]]:
    # Spreadsheet programs write a byte-order mark and, in some countries, semicolons.
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter=max(",;\t", key=first.count))
        return {i: [field.strip() for field in row] for i, row in enumerate(rows, 1)}


def _workbook(path: Path) -> dict[int, list[str]]:
    import openpyxl  # takes a third of a second, and most lists are CSV files

    if not zipfile.is_zipfile(path):
        raise _WorkbookError("not a ZIP archive")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and menus
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some programs write wrong ones
            return {i: [_text(value) for value in row] for i, row in enumerate(sheet.iter_rows(values_only=True), 1)}
    except Exception as error:  # a damaged workbook raises almost anything
        raise _WorkbookError(str(error) or type(error).__name__) from error


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def read_table(path: Path, required: Sequence[str], problems: Problems) -> tuple[list[str], dict[int, dict[str, str]]]:
    """Reads a table with a header. The case of column names, and blanks around a field, are ignored.

    Args:
      path: an existing file, see ``read_rows``.
      required: columns, in lower case; if one is missing, there are no rows.
      problems: takes a missing column, a row with too many fields, and a file that is not a table.

    Returns:
      The columns in lower case, and the non-empty rows by number (the header is row 1).
    """
    found = len(problems.found)
    table = read_rows(path, problems)
    if len(problems.found) > found:
        return [], {}
    columns = [name.lower() for name in table.pop(min(table, default=0), [])]
    wrong = [f"no column {name!r}" for name in required if name not in columns]
    wrong += [f"two columns {name!r}" for name in sorted({x for x in columns if x and columns.count(x) > 1})]
    if wrong:
        problems.add(
            "bad_columns",
            f"{path}: has {' and '.join(wrong)}; the first row (in a workbook, of its first sheet) must name the "
            f"columns, but it names: {', '.join(columns) or 'none'}",
        )
        return columns, {}
    rows = {}
    for i, fields in table.items():
        if any(fields[len(columns) :]):
            problems.add(
                "malformed_row",
                f"{path}, row {i}: has {len(fields)} fields, but the header names {len(columns)} columns; quote a "
                'field that contains a comma ("a, b")',
            )
        else:
            rows[i] = dict(zip(columns, fields + [""] * (len(columns) - len(fields)), strict=False))
    return columns, rows
