"""The official lists of PFED5, with one clip per row.

A list has the columns id, score, frames and, in column 3 or 4 (counted from 0), the expression 0-4. PATIENT is the part
of the id after its last "_", VIDEO its first 11 characters.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tramp_jax.data import tables
from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.problems import Problems

EXPRESSIONS = ("sit_at_rest", "smile", "frown", "squeeze_eyes", "clench_teeth")
MAX_SCORE = 4
AGAIN = "restore it from the authors' download"

_EXPRESSION_COLUMNS = (3, 4)
_VIDEO_LENGTH = 11
# An id names folders, so it must not contain blanks or slashes.
_ID = re.compile(r"(?!\.)[^\s/\\]+_[^\s/\\_.][^\s/\\_]*")


def video(info: ClipInfo) -> str:
    """The VIDEO of a clip."""
    return info.id[:_VIDEO_LENGTH]


def read_list(path: Path, expression_column: int, problems: Problems) -> list[ClipInfo]:
    """Reads an official list (CSV or Excel), in the order of the file; ``ClipInfo.source`` names the file and the row.

    A first row without a number, or with the column numbers 0, 1, 2, ..., is a header. Blanks around fields are
    ignored. If ``expression_column`` is 0, the expression is in column 3 or 4 (counted from 0): the one that holds a
    whole number from 0 to 4 in more than half of the rows. If both do, it is the one with "expression" or "class" in
    its header.

    Raises:
      DataError: a malformed row, a row that repeats an earlier clip, no clips, or an unclear expression column. If
        ``problems`` collects them instead, these rows are skipped.
    """
    header, rows = _header_and_rows(tables.read_rows(path, problems))
    if not rows:
        problems.add("empty_list", f"{path}: lists no clips; {AGAIN}")
        return []
    column = expression_column or _expression_column(path, header, list(rows.values()), problems)
    if not column:
        return []
    infos: list[ClipInfo] = []
    seen: dict[tuple[str, str], int] = {}
    for number, fields in rows.items():
        place = f"{path}, row {number}"
        faults = list(_faults(fields, column))
        for kind, what in faults:
            problems.add(kind, f"{place}: {what}; correct the row, or {AGAIN}", place)
        if faults:
            continue
        info = _info(fields, column, place)
        clip = (info.subject, video(info))
        if clip in seen:
            problems.add(
                "duplicate_clip",
                f"{place}: {info.id!r} names the same clip as row {seen[clip]} (patient {clip[0]}, video {clip[1]}); "
                "remove one of the two rows",
                place,
            )
            continue
        seen[clip] = number
        infos.append(info)
    return infos


def _header_and_rows(rows: dict[int, list[str]]) -> tuple[list[str], dict[int, list[str]]]:
    """Separates the header, which is [] if there is none, from the rows."""
    first = min(rows, default=0)
    header = rows.get(first, [])
    numeric = any(tables.number(field) is not None for field in header)
    if numeric and header != [str(i) for i in range(len(header))]:
        return [], rows
    return header, {i: row for i, row in rows.items() if i != first}


def _expression_column(path: Path, header: list[str], rows: list[list[str]], problems: Problems) -> int:
    """The expression's column; 0 if it is unclear and problems are collected."""
    fits = [c for c in _EXPRESSION_COLUMNS if 2 * sum(_is_expression(x[c]) for x in rows if c < len(x)) > len(rows)]
    if len(fits) > 1:
        named = [c for c in fits if c < len(header) and re.search("expression|class", header[c], re.IGNORECASE)]
        fits = named if len(named) == 1 else fits
    if len(fits) == 1:
        return fits[0]
    which = "both columns 3 and 4 hold" if fits else "neither column 3 nor column 4 holds"
    problems.add(
        "unclear_column",
        f"{path}: unclear which column is the expression: {which} numbers from 0 to {len(EXPRESSIONS) - 1} (columns "
        "counted from 0: id, score, frames, ...); choose it with --config.data.expression_column=COLUMN",
    )
    return 0


def _faults(fields: Sequence[str], column: int) -> Iterator[tuple[str, str]]:
    """Yields the kind and description of everything that is wrong with a row."""
    if len(fields) <= max(column, 2):
        what = f"has {len(fields)} columns, but column {column} (counted from 0) must be the expression"
        yield "missing_column", what
        return
    name, score, frames, expression = fields[0], fields[1], fields[2], fields[column]
    if not _ID.fullmatch(name) or len(name) < _VIDEO_LENGTH:
        yield (
            "bad_id",
            f"the id {name[:80]!r} is not an {_VIDEO_LENGTH}-character video with _PATIENT at the end, without "
            "blanks or slashes",
        )
    value, count = tables.number(score), tables.whole(frames)
    if value is None or not 0 <= value <= MAX_SCORE:
        yield "bad_score", f"the score {score[:80]!r} (column 1) is not a number from 0 to {MAX_SCORE}"
    if count is None or count < 1:
        what = f"the number of frames {frames[:80]!r} (column 2) is not a whole number of at least 1"
        yield "bad_frame_count", what
    if not _is_expression(expression):
        known = ", ".join(f"{i} {label}" for i, label in enumerate(EXPRESSIONS))
        yield "bad_expression", f"the expression {expression[:80]!r} (column {column}) is not one of {known}"


def _info(fields: Sequence[str], column: int, place: str) -> ClipInfo:
    """The clip of a row without faults."""
    name = fields[0]
    score, frames, expression = (float(tables.with_point(x)) for x in (fields[1], fields[2], fields[column]))
    return ClipInfo(name, name.rsplit("_")[-1], EXPRESSIONS[int(expression)], score, int(frames), source=place)


def _is_expression(text: str) -> bool:
    value = tables.whole(text)
    return value is not None and 0 <= value < len(EXPRESSIONS)
