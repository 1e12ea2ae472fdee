"""Lists as CSV files and Excel workbooks: reads both alike, and writes CSV files that are safe to open."""

import csv
import io
import itertools
import math
import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tramp_jax.data.names import clean
from tramp_jax.data.problems import Problems
from tramp_jax.errors import UserError

MAX_BYTES = 32 << 20  # of a CSV file or an unpacked workbook; a list of 16,000 clips has 2 MB
MAX_CELLS = 2_000_000
MAX_ROWS = 1_048_576  # of an Excel sheet
_OTHER_SPREADSHEETS = (".xls", ".xlsb", ".ods", ".numbers")
_BYTE_ORDER_MARKS = (  # longest first, because UTF-32's begins like UTF-16's
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_LOST = re.compile("[\0\ufffd]")  # what other programs write for letters they could not read
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+,(\d\d?|\d{4,})|0,\d+)", re.ASCII)  # 1,234 may be a thousand
_MAX_PATH, _MAX_NAME = 3000, 255  # bytes; Linux allows 4096 for a whole path
_MAX_DIGITS = 15  # of a number in a workbook
_MORE_DATES = {*range(27, 37), *range(50, 59)}  # numbers of East Asian formats, which openpyxl does not know
_UNSAVED = re.compile(  # a formula that gives an empty text is saved with t="str"
    rb'<(?:\w+:)?c\b(?![^<>]*\st="str")[^<>]*\sr="[A-Z]{1,3}(\d{1,7})"[^<>]*>\s*'
    rb"<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>[^<>]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
_HIDDEN = re.compile(rb'<(?:\w+:)?row\b[^<>]*\shidden="(?:1|true)"[^<>]*>')
_ROW_NUMBER = re.compile(rb'\sr="(\d{1,7})"')
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s+ref="([A-Z]{1,3})(\d{1,7}):[A-Z]{1,3}(\d{1,7})"')
_WRITTEN_NUMBER = re.compile(rf"{_NUMBER.pattern}([eE][+-]?\d+)?", re.ASCII)
# Where a spreadsheet would start a formula: at the start of a cell, and after anything some take for a separator.
_FORMULA = r"(?:^|(?<=[,;\t\r\n])){0}(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])|^{0}(?='*[\t\r])"
_UNGUARDED, _GUARDED = re.compile(_FORMULA.format("")), re.compile(_FORMULA.format("'"))


def number(text: str) -> float | None:
    """The value of a plain decimal number such as "3", "-1", "2.5" or "2,5"; None for any other text."""
    text = with_point(text)
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def whole(text: str) -> int | None:
    """The value of a whole number, including the "3.0" of spreadsheets; None for any other text."""
    value = number(text)
    return int(value) if value is not None and value.is_integer() else None


def read_rows(path: Path, problems: Problems) -> dict[int, list[str]]:
    """The non-empty rows of a CSV file, or of a workbook's first visible sheet: number (from 1) -> stripped fields.

    A CSV file is UTF-8 or UTF-16. Its first line may name the separator ("sep=;", as spreadsheets write it); otherwise,
    it is the comma, semicolon or tab, whichever that line has most of. In a workbook, a number becomes the text that a
    CSV file would have, "3" rather than "3.0", or "1.2e+17" if the workbook lost its last digits. A formula becomes its
    last saved value, and merged cells have their value in every row. The apostrophe that ``csv_text`` puts before a
    formula is removed.

    A file that ends in .xlsx is a workbook, any other is CSV. ``problems`` takes ``unreadable_table`` if it is neither,
    or ``oversized_file``; there are then no rows.
    """
    suffix = path.suffix.lower()
    rows: dict[int, list[str]] = {}
    cells = 0
    try:
        if suffix in _OTHER_SPREADSHEETS:
            raise _TableError("unreadable_table", "save the table as a CSV file or an Excel workbook (.xlsx)")
        for number, row in enumerate(_workbook(path) if suffix == ".xlsx" else _comma_separated(path), 1):
            cells += len(row)
            if number > MAX_ROWS or cells > MAX_CELLS:
                what = f"has more than {MAX_ROWS:,} rows or {MAX_CELLS:,} cells, so it is not read; remove empty ones"
                raise _TableError("oversized_file", what, number)
            if lost := next(filter(_LOST.search, row), ""):
                what = f"{lost[:80]!r} has unreadable letters, so two names may have become one; restore the list"
                raise _TableError("unreadable_table", what, number)
            if any(row):
                rows[number] = [unguarded(field) for field in row]
    except _TableError as fault:
        problems.add(fault.kind, fault.located(path, "row"))
        return {}
    return rows


class _TableError(UserError):
    """What is wrong with a table, and in which row (0 for all of it). The caller adds the file."""

    def __init__(self, kind: str, what: str, row: int = 0):
        super().__init__(kind, what)
        self.row = row

    def located(self, path: Path, row_name: str) -> str:
        place = f"{path}, {row_name} {self.row}" if self.row else path
        return f"{place}: {self}"


def read_lines(path: Path, problems: Problems) -> list[str]:
    """The lines of a UTF-8 or UTF-16 text; [] if ``problems`` took ``unreadable_table`` or ``oversized_file``."""
    try:
        return _read_text(path).splitlines()
    except _TableError as fault:
        problems.add(fault.kind, fault.located(path, "line"))
        return []


def _read_text(path: Path) -> str:
    """Reads UTF-8 and UTF-16, with or without a byte order mark.

    Spreadsheets also write older encodings. Those are refused: the bytes do not say which encoding they are in, and a
    wrong guess would turn one person into two, or two into one.
    """
    if path.stat().st_size > MAX_BYTES:
        raise _TableError("oversized_file", f"has more than {MAX_BYTES >> 20} MB, so it is not read; is it the list?")
    content = path.read_bytes()
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and 0 in content[:2]:  # the first letter is ASCII in all known lists
        encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start]
        row = max(before.count(b"\n"), before.count(b"\r")) + 1
        wrong = content[max(0, error.start - 20) : error.start + 20].splitlines()
        what = (
            f"is not {encoding.upper()} text (byte {content[error.start]:#04x} in {b' '.join(wrong)!r}), so letters "
            'beyond ASCII would be misread; save it in Excel as "CSV UTF-8", or as a workbook (.xlsx)'
        )
        raise _TableError("unreadable_table", what, row) from error


def separator(lines: Iterable[str]) -> tuple[str, bool]:
    """The separator of comma-separated values, and whether the first line only names it, as in "sep=;"."""
    first = next(filter(str.strip, lines), "")
    if hint := re.fullmatch(r"sep=([,;\t])\s*", first, re.IGNORECASE):
        return hint[1], True
    # Texts in brackets and quotation marks may have other separators.
    return max(",;\t", key=re.sub(r'"[^"]*"|\([^)]*\)', "", first).count), False


def _comma_separated(path: Path) -> Iterator[list[str]]:
    file = io.StringIO(_read_text(path), newline="")
    sign, hint = separator(file)
    file.seek(0)
    number = columns = 0
    try:
        for number, row in enumerate(csv.reader(file, delimiter=sign, skipinitialspace=True, strict=True), 1):
            if hint and row:
                hint, row = False, []
            columns = columns or len(row)
            if any(_holds_rows(field, sign, columns) for field in row):
                raise csv.Error("a quoted field holds what look like further rows")
            yield [field.strip() for field in row]
            number += 1  # an error is in the next row
    except csv.Error as error:
        what = f"not comma-separated values ({error}); a field that begins with a quotation mark must also end with one"
        raise _TableError("unreadable_table", what, max(number, 1)) from error


def _holds_rows(field: str, separator: str, columns: int) -> bool:
    """Whether a field has swallowed rows after an unclosed quotation mark.

    Its lines then have about as many separators as the table. A note of several lines has fewer.
    """
    breaks = len(re.findall(r"\r\n|\r|\n", field))
    return breaks > 0 and field.count(separator) >= breaks * min(max(columns - 1, 1), 3)


def _workbook(path: Path) -> Iterator[list[str]]:
    from openpyxl.reader.excel import ExcelReader  # takes a third of a second, and most lists are CSV files

    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and menus
            reader = ExcelReader(file, read_only=True, data_only=True, keep_links=False)
            parts = reader.archive.infolist()
            size = sum(part.file_size for part in parts if not part.filename.startswith("xl/media/"))
            if size > MAX_BYTES:
                what = f"unpacks to {size >> 20} MB, more than {MAX_BYTES >> 20} MB, so it is not read; is it the list?"
                raise _TableError("oversized_file", what)
            reader.read()
            book = reader.wb
            dates = {i for i, style in enumerate(book._cell_styles) if style.numFmtId in _MORE_DATES}
            book._date_formats |= dates
            sheet, *others = [x for x in book.worksheets if x.sheet_state == "visible"] or book.worksheets[:1]
            rows = _first_rows(sheet)
            for other in others:
                if _continues(rows, _first_rows(other)):
                    what = f"sheets {sheet.title!r} and {other.title!r} both look like the list, but only one is read"
                    cure = "put all rows into the first, and hide or remove the other"
                    raise _TableError("unreadable_table", f"{what}; {cure}")
            places = {found.name: place.target for found, place in reader.parser.find_sheets()}
            xml = reader.archive.read(places[sheet.title])
            yield from _as_shown(([_text(value) for value in row] for row in sheet.iter_rows(values_only=True)), xml)
    except _TableError:
        raise
    except Exception as error:  # a damaged workbook raises almost anything
        reason = str(error) or type(error).__name__
        what = f"damaged, encrypted, or not an Excel workbook ({reason}); save the table as a CSV file"
        raise _TableError("unreadable_table", what) from error


def _first_rows(sheet: Any) -> list[list[str]]:
    """The cells that are not empty, in lower case, of the first rows of a sheet that have any."""
    sheet.reset_dimensions()  # some programs write wrong ones
    rows = ([text for value in row if (text := _text(value).lower())] for row in itertools.islice(sheet.values, 100))
    return [*filter(None, rows)]


def _continues(rows: list[list[str]], others: list[list[str]]) -> bool:
    """Whether the rows of another sheet look like further rows of a list.

    Either half of their column names are the same, or there is a row of numbers and texts in the list's order.
    """

    def kinds(row: list[str]) -> list[bool]:
        return [number(text) is not None for text in row]

    header, first = (*rows, [], [])[:2]
    for place, row in enumerate(others):
        width = min(len(first), len(row))
        if width > 2 and any(kinds(row)[:width]) and kinds(row)[:width] == kinds(first)[:width]:
            return True
        shared = len({*header} & {*row})
        if shared > 1 and 2 * shared >= min(len(header), len(row)) and place + 1 < len(others):
            return True
    return False


def _as_shown(rows: Iterable[list[str]], xml: bytes) -> Iterator[list[str]]:
    """Yields the rows of a sheet, given also as XML. All rows of merged cells have their value."""
    from openpyxl.utils import column_index_from_string

    if unsaved := _UNSAVED.search(xml):
        what = "has a formula without a saved value; open the workbook in a spreadsheet program and save it again"
        raise _TableError("unreadable_table", what, int(unsaved[1]))
    hidden = {int(found[1]) for row in _HIDDEN.findall(xml) if (found := _ROW_NUMBER.search(row))}
    merged: dict[int, list[tuple[int, int]]] = {}  # first row -> column from 0, last row
    for letters, top, bottom in _MERGED.findall(xml):
        merged.setdefault(int(top), []).append((column_index_from_string(letters.decode()) - 1, int(bottom)))
    above: dict[int, tuple[int, str]] = {}  # column -> last row, value
    for number, row in enumerate(rows, 1):
        if number in hidden and any(row):
            what = "is hidden, perhaps by a filter, so it is unclear whether it counts; show all rows, or delete it"
            raise _TableError("unreadable_table", what, number)
        above = {column: cell for column, cell in above.items() if cell[0] >= number}
        if any(row):
            for column, (_, value) in above.items():
                row += [""] * (column + 1 - len(row))
                row[column] = value
        above |= {column: (last, row[column]) for column, last in merged.get(number, ()) if column < len(row)}
        yield row


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float) and abs(value) >= 10**_MAX_DIGITS:
        return f"{value:.{_MAX_DIGITS}e}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def read_table(path: Path, required: Sequence[str], problems: Problems) -> tuple[list[str], dict[int, dict[str, str]]]:
    """Reads a table with a header, see ``read_rows``. Ignores the case of column names, and blanks around fields.

    ``problems`` takes a missing column (there are then no rows), a row with too many fields, and a file that is not a
    table.

    Returns:
      The columns in lower case, and the non-empty rows by number (the header is row 1).
    """
    found = len(problems.found)
    table = read_rows(path, problems)
    if len(problems.found) > found:
        return [], {}
    columns = [clean(name).lower() for name in table.pop(min(table, default=0), [])]
    wrong = [f"no column {name!r}" for name in required if name not in columns]
    wrong += [f"two columns {name!r}" for name in sorted({x for x in columns if x and columns.count(x) > 1})]
    if wrong:
        problems.add(
            "bad_columns",
            f"{path}: has {' and '.join(wrong)}; the first row (of a workbook's first sheet) must name the columns, "
            f"but it names: {', '.join(columns) or 'none'}",
        )
        return columns, {}
    rows = {}
    for i, fields in table.items():
        if any(fields[len(columns) :]):
            problems.add(
                "malformed_row",
                f"{path}, row {i}: has {len(fields)} fields, but the header names {len(columns)} columns; quote "
                'fields that contain a comma ("a, b", "2,5")',
            )
        else:
            rows[i] = dict(zip(columns, fields + [""] * (len(columns) - len(fields)), strict=False))
    return columns, rows


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """The text of a CSV file in which no spreadsheet finds a formula.

    A cell that begins with one of = + - @, a tab or a line break gets an apostrophe in front, which ``read_rows``
    removes. Numbers stay numbers.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([_guarded(cell) for cell in row] for row in rows)
    return text.getvalue()


def _guarded(cell: object) -> str:
    text = "" if cell is None else str(cell)
    return text if _WRITTEN_NUMBER.fullmatch(text) else _UNGUARDED.sub("'", text)


def with_point(cell: str) -> str:
    """A number with a decimal comma gets a point. In a name, the comma may be what tells two people apart."""
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell


def is_path(text: str) -> bool:
    """Whether a text is short enough to be a path; a longer one makes the system's calls fail."""
    content = os.fsencode(text)
    return len(content) < _MAX_PATH and all(len(part) <= _MAX_NAME for part in re.split(rb"[/\\]", content))


def located(folder: Path, text: str) -> Path:
    """The file that a list in ``folder`` names; the path as it is if there is none.

    The list may have backslashes, and composed letters where the disk has decomposed ones, or the reverse.
    """
    spellings = (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
    paths = [folder / os.path.expanduser(x) for y in spellings for x in (y, y.replace("\\", "/"))]
    return next(filter(os.path.exists, paths), paths[0])


def unguarded(cell: str) -> str:
    """The text of a cell that ``csv_text`` wrote."""
    return _GUARDED.sub("", cell)
