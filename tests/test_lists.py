"""Lists as offices really save them: no name, row or number is silently lost, merged or misread."""

import csv
import datetime
import time
import unicodedata
import zipfile

import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.published_layouts import write_workbook
from tests.raises import user_error
from tramp_jax import config, evaluation
from tramp_jax.cli import score_output
from tramp_jax.data import datasets, names, tables, validation
from tramp_jax.data.clips import ClipInfo
from tramp_jax.data.problems import WARNING, Problems
from tramp_jax.data.readers import folder as reader
from tramp_jax.data.source import Wanted
from tramp_jax.output import Output
from tramp_jax.preprocess import batch

HEADER = ["path", "subject", "expression", "score"]
PEOPLE = ["Müller", "Möller", "Miller", "Maler", "Zoé", "Noë"]


def _rows(people=PEOPLE, scores=range(6), **more):
    """A list of a clip for each person, with further columns."""
    rows = [[f"c{i}", name, "smile", str(mark)] for i, (name, mark) in enumerate(zip(people, scores, strict=False))]
    return [[*HEADER, *more], *([*row, *(cells[i] for cells in more.values())] for i, row in enumerate(rows))]


def _text(rows, separator=","):
    return "\r\n".join(separator.join(row) for row in rows) + "\r\n"


def _save(root, content):
    """Writes the list, and the landmarks of its clips c0, c1, ... so that the rows can be read."""
    (root / "clips.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    for i in range(12):
        (root / f"c{i}").mkdir(exist_ok=True)
        np.save(root / f"c{i}" / "landmarks.npy", np.zeros((5, 106, 2), np.float32))
    made = config.base()
    made.data.update(datasets.options("folder"), root=str(root))
    return made


def _open(root, content):
    """What a report finds in a list, and the clips that are read from it."""
    problems = Problems(collect=True)
    dataset = datasets.open_dataset(_save(root, content), Wanted(), problems)
    return problems.found, dataset.source.infos


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_unicode_lists_keep_every_name(tmp_path, encoding, separator):
    found, infos = _open(tmp_path, _text(_rows(), separator).encode(encoding))
    assert not found
    assert [info.subject for info in infos] == PEOPLE


@pytest.mark.parametrize("people", [PEOPLE, ["张伟", "王芳", "李娜"], ["Иван", "Ольга", "Пётр"]])
@pytest.mark.parametrize("mark", [b"\xff\xfe", b""])
def test_lists_of_any_script_are_read_as_utf_16(tmp_path, people, mark):
    _, infos = _open(tmp_path, mark + _text(_rows(people)).encode("utf-16-le"))
    assert [info.subject for info in infos] == people


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp1250", "cp850", "mac-roman"])
def test_older_encodings_are_refused_by_name(tmp_path, encoding):
    text = _text(_rows(["Anna", "Müller", "Möller"]), ";")
    with user_error("unreadable_table", tmp_path / "clips.csv", "row 3", "UTF-8"):
        datasets.open_dataset(_save(tmp_path, text.encode(encoding)))
    with user_error("unreadable_table", tmp_path / "clips.csv", "row 3", "UTF-8"):
        batch.read_jobs(tmp_path / "clips.csv")
    assert [problem.kind for problem in _open(tmp_path, text.encode(encoding))[0]] == ["unreadable_table"]


@pytest.mark.parametrize("encoding", ["gb18030", "cp1251", "shift_jis"])
def test_other_alphabets_are_refused_by_name(tmp_path, encoding):
    text = _text(_rows(["Иван", "Ольга"]))
    with user_error("unreadable_table", "clips.csv", "row 2", "UTF-8"):
        datasets.open_dataset(_save(tmp_path, text.encode(encoding)))


@pytest.mark.parametrize("content", [_text(_rows(["M\ufffdller", "Anna"])), _text(_rows(["M\0ller", "Anna"]))])
def test_names_that_lost_letters_are_refused(tmp_path, content):
    with user_error("unreadable_table", "clips.csv", "row 2"):
        datasets.open_dataset(_save(tmp_path, content))
    write_workbook(tmp_path / "list.xlsx", [["path"], ["M\ufffdller"]])
    with user_error("unreadable_table", "list.xlsx", "row 2"):
        tables.read_rows(tmp_path / "list.xlsx", Problems())


def test_a_truncated_list_of_two_byte_letters_is_refused(tmp_path):
    with user_error("unreadable_table", "clips.csv", "UTF-16"):
        datasets.open_dataset(_save(tmp_path, _text(_rows()).encode("utf-16")[:-1]))


def test_lists_that_are_not_tables_are_read_alike(tmp_path):
    path = tmp_path / "list.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        path.write_bytes("Möller 5 1\r\nMüller 4 2\r\n".encode(encoding))
        assert tables.read_lines(path, Problems()) == ["Möller 5 1", "Müller 4 2"]
    path.write_bytes("Maler 3 1\nMöller 5 1\n".encode("cp1252"))
    with user_error("unreadable_table", path, "line 2", "UTF-8"):
        tables.read_lines(path, Problems())
    with path.open("wb") as file:
        file.truncate(8 << 30)
    with user_error("oversized_file", path):
        tables.read_lines(path, Problems())


# Written back

MADE = "path,subject,Expression,score,video,,\na,anna,smile,3,/v/a.mp4,seen by dr b,\nb,Müller,smile,2,/v/b.mp4,ask,re"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_list_that_is_written_back_keeps_columns_without_a_name(tmp_path, encoding):
    (tmp_path / "clips.csv").write_bytes(MADE.encode(encoding))
    for _ in range(2):
        made = batch.ClipList(tmp_path, ["speed"])
        with (tmp_path / "clips.csv").open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        assert header == ["path", "subject", "Expression", "score", "video", "", "", "speed"]
        assert rows == [
            ["a", "anna", "smile", "3", "/v/a.mp4", "seen by dr b", "", ""],
            ["b", "Müller", "smile", "2", "/v/b.mp4", "ask", "re", ""],
        ]
        assert made.columns[5:] == ["", "", "speed"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (MADE.encode("cp1252"), "unreadable_table"),
        (MADE.replace("ask", '"ask').encode(), "unreadable_table"),
        (b"a,b\n1,2\n", "bad_columns"),
    ],
)
def test_a_list_that_cannot_be_read_is_not_written_back(tmp_path, content, kind):
    (tmp_path / "clips.csv").write_bytes(content)
    with user_error(kind, tmp_path / "clips.csv"):
        batch.ClipList(tmp_path)
    assert (tmp_path / "clips.csv").read_bytes() == content


# Headers


@pytest.mark.parametrize("start", ["sep={}\r\n", "\ufeffsep={}\r\n", "\ufeff\ufeff", "\r\n\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ends", ["\r\n", "\n", "\r"])
def test_what_programs_write_before_the_header_is_skipped(tmp_path, start, separator, ends):
    text = start.format(separator) + _text(_rows(), separator)
    found, infos = _open(tmp_path, text.replace("\r\n", ends))
    assert not found
    assert [info.subject for info in infos] == PEOPLE


@pytest.mark.parametrize(
    "header",
    [
        "path;subject;expression;score;notes (a, b, c, d, e)",
        'path;subject;expression;score;"a,b,c,d,e"',
        "path;sub\u200bject;expression;\u00a0score\u00a0;x",
        'path; "subject"; expression; "score"; "notes (a; b)"',
    ],
)
def test_a_header_with_other_separators_or_invisible_characters_is_read(tmp_path, header):
    found, infos = _open(tmp_path, f"{header}\r\nc0;a;smile;1;x, y\r\nc1;b;smile;2;z\r\n")
    assert not found
    assert [(info.subject, info.score) for info in infos] == [("a", 1), ("b", 2)]


# Quotation marks


def _noted(*notes):
    return _text(_rows(["a", "b", "c", "d"], scores=(0, 1, 2, 3), notes=notes))


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (_noted("ok", '"left side weak', "ok", "ok"), 3),
        (_noted("ok", '"left side weak', "ok", 'weak"'), 3),  # the second mark ends the next-but-one note
        (_noted("ok", '"left side weak', '"right"', "ok"), 3),
        (_noted("ok", "ok", "ok", '"left'), 5),
        (_noted("ok", '"left" side', "ok", "ok"), 3),
        ("path;subject;expression;score\nc0;\"anna;smile;1\nc1;b;smile;2\nc2;c;smile;3\n", 2),
        ('path,"subject,expression,score\nc0,a,smile,1\nc1,b,smile,2\n', 1),
        ('path,subject,expression,score\nc0,"a,smile,1\nc1,b",smile,2\nc2,c,smile,3\n', 2),
    ],
)  # fmt: skip
def test_an_unclosed_quotation_mark_is_named_with_its_row(tmp_path, content, row):
    with user_error("unreadable_table", tmp_path / "clips.csv", f"row {row}:", "quotation mark"):
        datasets.open_dataset(_save(tmp_path, content))


@pytest.mark.parametrize(
    "note",
    [' "left, then right"', '"5"" nail"', '5" nail', '"a; b"', '"tired, shaky\r\nbetter later"', '""', '"x\n\ny"'],
)
def test_sound_quotation_marks_lose_no_row(tmp_path, note):
    found, infos = _open(tmp_path, _noted("ok", note, "ok", "ok"))
    assert not found
    assert [info.subject for info in infos] == ["a", "b", "c", "d"]


# One person, one spelling


def test_spellings_that_differ_only_in_invisible_ways_are_one_person(tmp_path):
    people = ["Zoë", unicodedata.normalize("NFD", "Zoë"), "Zoë\u200b", "\ufeffZoë", "\u00a0Zoë\u202f", "Zo\u00adë"]
    found, infos = _open(tmp_path, _text(_rows(people, scores=(0, 1, 2, 3, 4, 0))))
    assert not found
    assert {info.subject for info in infos} == {"Zoë"}
    assert {job.info.subject for job in batch.read_jobs(tmp_path / "clips.csv")} == {"Zoë"}


ALIKE = [
    ("007", "7"), ("7.0", "7"), ("7,00", "7"), ("P-01", "P_01"), ("P-01", "p 1"), ("P01", "P-1"), ("Anna", "anna"),
    ("STRASSE", "Straße"), ("Zoë", "ZOE\u0308"), ("P\u201301", "P-01"), ("\uff17", "7"), ("1-2", "1_02"), ("ﬁn", "fin"),
    ("\u041001", "A01"), ("\u0420-1", "P1"), ("\u03a11", "P1"), ("P\u221201", "P-01"), ("(P1)", "P1"), ("P1*", "P1"),
    ("ИВАН", "Иван"), ("НИНА", "нина"), ("\u0420\u041e1", "po1"),
    ("Smith, Anna", "smith anna"),
]  # fmt: skip
DIFFERENT = [
    ("Müller", "Möller"), ("Zoé", "Zoë"), ("1-12", "11-2"), ("P1", "P10"), ("7", "7.5"), ("a", "b"), ("हिन्दी", "हन्द"),
    ("N002", "OP02"), ("0", "00a"), ("Иван", "Ибан"), ("Ольга", "Елена"), ("1E5x", "1E6x"),
    ("Smith, Anna", "Smith, Ann"), ("1, 2", "2 1"), ("Smith, Anna", "Anna Smith"), ("Müller", "Mueller"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ALIKE)
@pytest.mark.parametrize("split", [None, ("train", "test"), ("train", "train")])
def test_one_person_in_two_spellings_is_an_error(tmp_path, one, other, split):
    rows = _rows([one, other], split=split) if split else _rows([one, other])
    quoted = [[f'"{cell}"' for cell in row] for row in rows]
    with user_error("similar_names", "row 2", "row 3"):
        datasets.open_dataset(_save(tmp_path, _text(quoted)))
    assert "similar_names" in [problem.kind for problem in _open(tmp_path, _text(quoted))[0]]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_two_people_stay_two(one, other):
    assert not list(names.alike([one, other, one]))


def test_long_names_are_compared_in_little_time():
    started = time.perf_counter()
    for part in ("1", "1-", "1a", "V1", "1 (", "a,", "ü ", "1_", "20230105", "1_230105"):
        assert not list(names.perhaps_alike([part * 20_000 + "x", part * 20_000 + "y"]))
        assert not list(names.alike([part * 20_000 + "x", part * 20_000 + "y"]))
    assert time.perf_counter() - started < 10


@given(st.lists(st.text(max_size=6), max_size=4))
def test_any_names_can_be_compared(found):
    surely, perhaps = set(names.alike(found)), set(names.perhaps_alike(found))
    assert all(one != other for one, other in surely | perhaps)
    assert not surely & perhaps
    assert all(names.clean(names.clean(name)) == names.clean(name) for name in found)


def test_training_without_bad_clips_does_not_split_a_person(tmp_path):
    made = _save(tmp_path, _text(_rows(["007", "7", "8"])))
    made.data.skip_bad = True
    with user_error("bad_data", "similar_names", "007"):
        validation.open_sound(made)
    known = tmp_path / "skipped.json"
    known.write_text('{"bad_clips": []}')
    with user_error("bad_data", "similar_names", "007"):
        validation.open_sound(made, known)


def test_expressions_in_two_spellings_are_a_warning(tmp_path):
    made = _save(tmp_path, _text(_rows(["a", "b"])).replace("smile,1", "Smile,1"))
    report = validation.check(made, Wanted(frames=False))
    for found in (report.problems, datasets.open_dataset(made, Wanted()).notes):  # training does not check all clips
        assert [problem.kind for problem in found if problem.severity == WARNING] == ["similar_names"]


DATES = [
    "4-Mar", "04-Mar-2024", "Mar-04", "2024-03-04 00:00:00", "2024-03-04", "04.03.2024", "3/4/2024", "3/4/24", "4. Mrz",
    "04. Mrz", "4. Mai", "Mrz 24", "4-mars", "4-Mär", "4. März 2024", "4-ago", "4 mrt", "01:02:00", "1:02 PM",
]  # fmt: skip


@pytest.mark.parametrize("name", DATES)
def test_a_name_that_a_spreadsheet_took_for_a_date_is_not_a_person(tmp_path, name):
    with user_error("bad_id", "row 2", name, "date"):
        datasets.open_dataset(_save(tmp_path, _text(_rows([name, "3-5"]))))


@pytest.mark.parametrize(
    "name", ["4-1", "12-05", "1-2-3", "P-4", "Jan", "Mai 1", "2024", "1.5", "M-Mar-04", "may4", "set-1"]
)
def test_a_name_that_is_not_a_date_is_a_person(name):
    assert not list(names.changed_by_spreadsheets([name]))


def test_a_date_whose_cell_became_text_is_not_a_person(tmp_path):
    """Formatted as text, 3-1 that became a date is the number of a day; 3-17 can be no date and stays."""
    with user_error("bad_id", "row 3", "44256", "date"):
        datasets.open_dataset(_save(tmp_path, _text(_rows(["3-17", "44256", "4-21"]))))
    found, _ = _open(tmp_path, _text(_rows(["3-17", "4425", "99999", "4-21"])))
    assert not found
    assert not _open(tmp_path, _text(_rows(["44256", "44257"])))[0]  # they may be numbers of patients


OCCASIONS = [
    ("P01_V1", "P01_V2"), ("P01", "P01_V2"), ("anna pre", "anna post"), ("P01L", "P01R"), ("P01-t1", "P01-t2"),
    ("7 visit 1", "7 visit 2"), ("007_on", "007 off"), ("anna_follow-up", "anna"), ("P1 Day 1", "P1 Day 14"),
    ("anna follow up", "anna baseline"), ("P01_follow_up", "P01"), ("P01_V01", "P01_V02"), ("3001_V01", "3001_V06"),
    ("P01_20230105", "P01_20230601"), ("P01 2023-01-05", "P01"), ("7_05.01.2023", "7_06.01.2023"),
    ("P01 (1)", "P01 (2)"), ("P01_230105", "P01_230719"), ("P01_050123", "P01_190723"), ("7 310125", "7 010226"),
    ("P01 05.01.23", "P01"), ("P01_05012023", "P01_31122024"),
    ("P01_20230105_1010", "P01_20230601_111111"), ("P01_M0", "P01_M12"), ("P01 m6", "p-01_M00"), ("P01_6M", "P01_12M"),
    ("anna 6 months", "anna 12 months"), ("P01_W4", "P01_W12"), ("P01-D1", "P01-D14"), ("P01_Y1", "P01"),
    ("P11-pre-op", "P11-post-op"), ("P11 preop", "P11_post_op"),
]  # fmt: skip
SPELT = [
    ("Lee, Kim", "Kim Lee"), ("Smith Anna", "Anna Smith"), ("SMITH,anna", "Anna smith"), ("Ana P. Gil", "gil, ana p"),
    ("Mueller", "Müller"), ("Muller", "Müller"), ("Groß, Jörg", "Joerg Gross"), ("ÄRZTIN", "aerztin"), ("Zoe", "Zoë"),
    ("Soren", "Søren"), ("Soeren", "Søren"), ("Łukasz", "lukasz"), ("Пётр", "Петр"), ("Müller pre", "Mueller post"),
    ("Aase", "Åse"), ("Sørensen Åge", "Age Sorensen"), ("Zoé", "Zoë"), ("Jose Muñoz", "José Muñoz"),
    ("Müller, Joerg", "Jörg Mueller"), ("José Müller", "Jose Mueller"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), OCCASIONS + SPELT)
def test_one_person_on_two_occasions_gives_a_warning(tmp_path, one, other):
    rows = [[f'"{cell}"' for cell in row] for row in _rows([one, other, "ben"])]
    found, infos = _open(tmp_path, _text(rows))
    assert len(infos) == 3
    (problem,) = found
    assert (problem.kind, problem.severity) == ("similar_names", WARNING)
    assert all(repr(name) in problem.message for name in (one, other))


def test_five_pairs_of_similar_names_are_listed(tmp_path):
    people = [f"{name}_{time}" for name in "abcdef" for time in ("pre", "post")]
    (problem,) = _open(tmp_path, _text(_rows(people[:10], scores=range(10))))[0]
    assert all(name in problem.message for name in people[:10])
    (problem,) = _open(tmp_path, _text(_rows(people, scores=range(12))))[0]
    assert [repr(name) in problem.message for name in people] == [True] * 10 + [False] * 2
    assert " 1 more" in problem.message


@pytest.mark.parametrize(
    "people",
    [
        ("V1", "V2"), ("left", "right"), ("HC_V01", "PD_V01"), ("P01", "P02"), ("Abel", "Abe"), ("A-01", "A-02"),
        ("Simon", "Sim"), ("N002", "OP02"), ("site1-s1", "site1-s2"), ("s000", "s001"), ("PD_V01", "PD_V02"),
        ("UK2_V01", "UK2_V10", "UK2_V11"), ("DE1-T007", "DE1-T008"), ("VID_20230105", "VID_20230106"),
        ("patient (1)", "patient (2)"), ("20230105_101010", "20230105_111111"), ("P01_2023", "P01_2024"),
        ("IMG_20230105_101010", "IMG_20230105_111111"), ("UK2_V01", "UK2_V02"), ("UK2_M01", "UK2_M02", "UK2_W01"),
        ("P230105", "P230106"), ("P_230105", "P_230106"), ("230105", "230719"), ("230105_101010", "230105_111111"),
        ("P01_231305", "P01_239999"), ("3D1", "3D2"), ("Müller", "Möller", "Muiler"),
        ("Lee 1", "1 Lee"), ("हिन्दी", "हन्द"), ("Kim Lee", "Kim Leo", "Lee Kin"),
    ],
)  # fmt: skip
def test_other_people_give_no_warning(people):
    assert not list(names.perhaps_alike(people))


def test_a_comma_in_a_name_is_not_a_decimal_comma(tmp_path):
    found, infos = _open(tmp_path, _text(_rows(['"1,5"', "b"])))
    assert not found
    assert infos[0].subject == "1,5"
    with user_error("similar_names", "row 2", "row 3"):
        datasets.open_dataset(_save(tmp_path, _text(_rows(['"1,5"', "1.5"]))))


@pytest.mark.parametrize("name", ["1.23457E+11", "1,2E+05", "3e11", "123456789012345000", "1E5"])
def test_a_number_that_a_spreadsheet_rounded_is_not_a_person(tmp_path, name):
    with user_error("bad_id", "row 2", name, f"S{name}"):  # if it is the name, only another spelling helps
        datasets.open_dataset(_save(tmp_path, _text(_rows([f'"{name}"', "b"]))))


# Ratings that are missing


@pytest.mark.parametrize("code", ["99", "999", "-1", "-9", "-99", "9999", "88", "99.0"])
@pytest.mark.parametrize("column", ["score", "speed"])
def test_a_number_that_means_missing_is_named_in_each_row(tmp_path, code, column):
    scores = ["0", code, "2", "3", code, "4"]
    rows = _rows(scores=scores) if column == "score" else _rows(scores=[0, 1, 2, 3, 4, 0], speed=scores)
    found, infos = _open(tmp_path, _text(rows))
    assert [problem.kind for problem in found] == ["malformed_row"] * 2
    for problem, row in zip(found, (3, 6), strict=True):
        assert all(fact in problem.message for fact in ("clips.csv", f"row {row}:", column, code))
        assert problem.message.count(";") == 1  # one cure
    assert [info.id for info in infos] == ["c0", "c2", "c3", "c5"]


@pytest.mark.parametrize(
    ("scores", "code", "kind"),
    [
        ([0, 1], 99, "malformed_row"),
        ([0, 1], -9, "malformed_row"),
        ([0, 1], -1, "doubtful_rating"),
        ([-2, -1, 0, 1, 2], 99, "malformed_row"),
        ([0, 1, 2, 3, 4], 9, "doubtful_rating"),
        ([0, 1, 2, 3, 4], 8, "doubtful_rating"),
        ([-0.5, 0, 0.5, 1], -1, None),
        (range(11), 9, None),
        (range(0, 101, 10), 99, None),
        ([-3, -2, 0, 1], -1, None),
    ],
)
@pytest.mark.parametrize("count", [1, 6])
def test_a_code_is_named_however_often_it_occurs(scores, code, kind, count):
    values = [str(x) for x in [*scores] * 4 + [code] * count]
    codes = reader._missing_codes(values)
    doubtful = reader._unlike_others(values) - codes
    assert (codes, doubtful) == (
        {code} if kind == "malformed_row" else set(),
        {code} if kind == "doubtful_rating" else set(),
    )


@pytest.mark.parametrize("scores", [(0, 50, 99, 100), (-1, 0, 1), (-2, -1, 0, 4), (60, 77, 88), (99,), (9, 4, 3)])
def test_ratings_of_other_scales_are_read(tmp_path, scores):
    found, infos = _open(tmp_path, _text(_rows(scores=scores)))
    assert not found
    assert [info.score for info in infos] == list(scores)


@pytest.mark.parametrize("cell", ["NA", "n/a", "", "missing", "1,234", "high", "9" * 400])
def test_one_missing_cell_does_not_remove_a_rating(tmp_path, cell):
    speed = ["1", "2", f'"{cell}"', "4", "0", "1"]
    found, infos = _open(tmp_path, _text(_rows(scores=[0, 1, 2, 3, 4, 0], speed=speed)))
    (problem,) = found
    assert (problem.kind, problem.severity) == ("missing_rating", WARNING)
    assert all(fact in problem.message for fact in ("clips.csv", "row 4:", "speed"))
    assert [dict(info.targets).get("speed") for info in infos] == [1, 2, None, 4, 0, 1]
    chosen = _save(tmp_path, _text(_rows(scores=[0, 1, 2, 3, 4, 0], speed=speed)))
    chosen.data.target = "speed"
    with user_error("missing_target", "row 4", "speed"):
        datasets.open_dataset(chosen)


def test_notes_are_not_ratings(tmp_path):
    found, infos = _open(tmp_path, _text(_rows(scores=[0, 1, 2, 3, 4, 0], notes=["7", "see b", "ok", "", "", ""])))
    assert not found
    assert not any(info.targets for info in infos)


@pytest.mark.parametrize(
    ("column", "warned"),
    [
        (["1", "2", "2-3", "2+", "", ""], "50%"),
        (["1", "high", "2-3", "2", "NA", "x"], "40%"),
        (["Train ", "TRAINING", "hold-out", "test", "", ""], "split"),
        (["ok", "2", "ok", "ok", "tired", ""], ""),
        ([""] * 6, ""),
    ],
)
def test_a_column_that_was_perhaps_meant_to_be_read_is_named(tmp_path, column, warned):
    found, infos = _open(tmp_path, _text(_rows(scores=[0, 1, 2, 3, 4, 0], more=column)))
    assert not any(info.targets for info in infos)
    assert [(problem.kind, problem.severity) for problem in found] == [("ignored_column", WARNING)] * bool(warned)
    assert all(fact in problem.message for problem in found for fact in ("clips.csv", "'more'", warned))


def test_numbers_in_a_column_without_a_name_are_not_silently_lost(tmp_path):
    """Such as the second half of 2,5 under a header that ends in a comma."""
    text = f"{','.join(HEADER)},{{}}\nc0,anna,smile,2,{{}}\nc1,ben,smile,1,{{}}\n"
    for cells, warned in ((("", 5, 5), True), (("", 5, ""), True), (("", "", ""), False), (("", "tired", 5), False)):
        found, infos = _open(tmp_path, text.format(*cells))
        assert [(problem.kind, problem.severity) for problem in found] == [("ignored_column", WARNING)] * warned
        assert len(infos) == 2
    found, _ = _open(tmp_path, f",{','.join(HEADER)}\n0,c0,anna,smile,2\n1,c1,ben,smile,1\n")  # the rows' numbers
    assert not found


@pytest.mark.parametrize("row", ["c0,anna,smile,2,5", "c0,anna,smile,2,5,1", "c0,Smith, Anna,smile,2"])
def test_a_comma_that_is_not_quoted_is_named_with_its_row(tmp_path, row):
    columns = [*HEADER, "speed"] if row.endswith("1") else HEADER
    found, infos = _open(tmp_path, f"{','.join(columns)}\nc1,ben,smile,1\n{row}\n")
    assert [problem.kind for problem in found] == ["malformed_row"]
    assert all(fact in found[0].message for fact in ("row 3", "quote", '"2,5"'))
    assert [info.subject for info in infos] == ["ben"]


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_split_of_one_part_gives_a_warning(tmp_path, part):
    found, infos = _open(tmp_path, _text(_rows(split=[part] * 6)))
    assert [(problem.kind, problem.severity) for problem in found] == [("empty_part", WARNING)]
    assert len(infos) == 6


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(("cell", "value"), [("3,5", 3.5), ("-0,5", -0.5), ("0,125", 0.125), ("2,3333", 2.3333)])
def test_a_decimal_comma_is_a_point(tmp_path, separator, cell, value):
    rows = _rows(["a", "b", "c"], scores=["0", f'"{cell}"', "2"], speed=["1", f'"{cell}"', "2"])
    found, infos = _open(tmp_path, _text(rows, separator))
    assert not found
    assert [(info.score, dict(info.targets)["speed"]) for info in infos] == [(0, 1), (value, value), (2, 2)]


@pytest.mark.parametrize(
    "cell", ["1,234", "1.234,5", "3,", "２", "III", "2-3", "3/4", "#DIV/0!", "True", "1 000", "=1+1"]
)
def test_what_is_not_one_number_is_not_a_score(tmp_path, cell):
    found, infos = _open(tmp_path, _text(_rows(["a", "b", "c"], scores=["1", f'"{cell}"', "2"])))
    assert [problem.kind for problem in found] == ["malformed_row"]
    assert "row 3" in found[0].message
    assert [info.score for info in infos] == [1, 2]


@pytest.mark.parametrize(
    ("more", "doubtful"),
    [([9], {9}), ([33, 44], {33, 44}), ([-3], {-3}), ([8, 9], {8, 9}), ([4], set()), ([5, 6, 7], set())],
)
@pytest.mark.parametrize("column", ["score", "speed"])
def test_a_rating_far_from_all_others_gives_a_warning(tmp_path, more, doubtful, column):
    scores = [0, 1, 2, 3, 4, 2, 3, 1, 2, 0, 1, 3, *more]
    people = [f"s{number}" for number in range(len(scores))]
    speed = {"speed": [str(mark) for mark in scores]} if column == "speed" else {}
    rows = _rows(people, scores=[1] * len(scores) if speed else scores, **speed)
    for i in range(8, len(scores)):
        (tmp_path / f"c{i}").mkdir()
        np.save(tmp_path / f"c{i}" / "landmarks.npy", np.zeros((5, 106, 2), np.float32))
    found, infos = _open(tmp_path, _text(rows))
    assert len(infos) == len(scores)
    assert [(problem.kind, problem.severity) for problem in found] == [("doubtful_rating", WARNING)] * len(doubtful)
    for problem, mark in zip(found, sorted(doubtful, key=scores.index), strict=True):
        assert f"row {scores.index(mark) + 2}:" in problem.message
        assert column in problem.message


@pytest.mark.parametrize("name", ["#N/A", "#REF!", "#######", "#NAME?", "nan", "null", "?", "-", "unknown", "N/A"])
@pytest.mark.parametrize("column", ["subject", "expression"])
def test_a_missing_name_is_not_a_name(tmp_path, name, column):
    """A failed look-up in a spreadsheet would make one person of many."""
    row = {"path": "c1", "subject": "b", "expression": "smile", "score": "1"} | {column: name}
    found, infos = _open(tmp_path, _text([HEADER, ["c0", "NA", "none", "0"], list(row.values())]))
    assert [problem.kind for problem in found] == ["malformed_row"]
    assert all(fact in found[0].message for fact in ("row 3", column, name))
    assert [info.subject for info in infos] == ["NA"]
    if column == "subject":
        with user_error("bad_data", "clips.csv", "row 3"):
            batch.read_jobs(tmp_path / "clips.csv")


@pytest.mark.parametrize("fps", ["0.04", "40000", "0", "-25", "25 fps"])
def test_an_impossible_rate_is_named(tmp_path, fps):
    found, _ = _open(
        tmp_path, _text([[*HEADER, "fps"], ["c0", "a", "smile", "0", fps], ["c1", "b", "smile", "1", "50"]])
    )
    assert [problem.kind for problem in found] == ["malformed_row"]
    assert all(fact in found[0].message for fact in ("row 2", "fps", fps))


# One clip, one row


@pytest.mark.parametrize("path", ["./c0", "c0/", "c1/../c0", "link", ".\\c0"])
@pytest.mark.parametrize("person", ["a", "b"])
def test_one_clip_under_two_spellings_of_its_path_is_an_error(tmp_path, path, person):
    (tmp_path / "link").symlink_to(tmp_path / "c0")
    found, infos = _open(tmp_path, f"path,subject,expression,score\nc0,a,smile,1\n{path},{person},smile,3\n")
    assert [problem.kind for problem in found] == ["duplicate_clip"]
    assert all(fact in found[0].message for fact in ("row 3", "row 2"))
    assert [info.score for info in infos] == [1]


def test_two_ids_may_share_a_clip_of_one_person_only(tmp_path):
    found, infos = _open(tmp_path, "id,path,subject,expression,score\nx,c0,a,smile,1\ny,c0,a,smile,3\nz,c0,b,smile,3\n")
    assert [problem.kind for problem in found] == ["duplicate_clip"]
    assert [info.id for info in infos] == ["x", "y"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_paths_are_found_as_other_systems_spell_them(tmp_path, on_disk, listed):
    folder = tmp_path / "day" / unicodedata.normalize(on_disk, "Zoë")
    folder.mkdir(parents=True)
    np.save(folder / "landmarks.npy", np.zeros((5, 106, 2), np.float32))
    for path in ("day\\Zoë", "day/Zoë", ".\\day\\Zoë"):
        text = _text([HEADER, [unicodedata.normalize(listed, path), "a", "smile", "1"]])
        found, infos = _open(tmp_path, text)
        assert (found, len(infos)) == ([], 1)
        (job,) = batch.read_jobs(tmp_path / "clips.csv")
        assert job.video == folder


@pytest.mark.parametrize("path", ["~nobody-of-this-name/a", "x" * 300, "a/" * 5000])
def test_paths_that_cannot_exist_are_named(tmp_path, path):
    found, infos = _open(tmp_path, f"path,subject,expression,score\n{path},a,smile,1\nc1,b,smile,2\n")
    assert [problem.kind for problem in found] == (["malformed_row"] if len(path) > 255 else ["missing_clip"])
    assert "row 2" in found[0].message
    assert [info.id for info in infos] == ["c1"]
    if len(path) > 255:
        with user_error("bad_data", "clips.csv", "row 2"):
            batch.read_jobs(tmp_path / "clips.csv")


@pytest.mark.parametrize("cell", ["NA", "", "missing"])
def test_a_row_without_a_score_is_named(tmp_path, cell):
    found, _ = _open(tmp_path, _text(_rows(scores=[0, cell, 2, 3, 4, 0])))
    (problem,) = found
    assert problem.kind == "malformed_row"
    assert "row 3" in problem.message


# Sizes


def _sheet(path, rows):
    """A workbook whose sheet has these rows, as XML."""
    write_workbook(path, [HEADER, ["c0", "a", "smile", 1]])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = "xl/worksheets/sheet1.xml"
    parts[name] = parts[name].replace(b"</sheetData>", rows + b"</sheetData>")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (b'<row r="3000000000"><c r="A3000000000"><v>1</v></c></row>', "oversized_file"),
        (b'<row r="1048577"><c r="A1048577"><v>1</v></c></row>', "oversized_file"),
        (b"".join(b'<row r="%d"><c r="XFD%d"/></row>' % (i, i) for i in range(3, 30_000)), "oversized_file"),
        (b"<row/>" + bytes(40 << 20).replace(b"\0", b" "), "oversized_file"),
        (b'<row r="1' + b"0" * 5000 + b'"><c><v>1</v></c></row>', "unreadable_table"),
    ],
    ids=["far", "beyond the last", "wide", "unpacks to 40 MB", "a row number of 5001 digits"],
)
def test_a_workbook_that_would_fill_the_memory_is_refused(tmp_path, rows, kind):
    _sheet(tmp_path / "list.xlsx", rows)
    assert (tmp_path / "list.xlsx").stat().st_size < 1 << 20
    with user_error(kind, tmp_path / "list.xlsx"):
        tables.read_table(tmp_path / "list.xlsx", HEADER, Problems())


def test_a_gap_between_rows_is_fine(tmp_path):
    _sheet(tmp_path / "list.xlsx", b'<row r="90000"><c r="A90000" t="inlineStr"><is><t>c1</t></is></c></row>')
    assert sorted(tables.read_rows(tmp_path / "list.xlsx", Problems())) == [1, 2, 90000]


@pytest.mark.parametrize("content", [b",,,,,,,\n" * 300_000, b"a," * (17 << 20)])
def test_a_list_that_would_fill_the_memory_is_refused(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    with user_error("oversized_file", tmp_path / "list.csv"):
        tables.read_rows(tmp_path / "list.csv", Problems())


# Spreadsheets

FORMULAS = [
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", '=HYPERLINK("http://x","y")', "a;=1+1",
    "a\n=1+1", "'=1", "''=1", "-inf", "-1_0",
]  # fmt: skip
_STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def _cells_that_run(text):
    """Cells that a spreadsheet would take for a formula, whatever separator it uses."""
    for separator in ",;\t":
        for row in csv.reader(text.splitlines(keepends=True), delimiter=separator):
            yield from (cell for cell in row if cell.startswith(_STARTS) and tables.number(cell) is None)


@pytest.mark.parametrize("text", FORMULAS)
def test_no_spreadsheet_runs_a_cell_and_it_reads_as_it_was(tmp_path, text):
    written = tables.csv_text([["name", "x"], [text, -1.5], [None, "1e-05"]])
    assert not [cell for cell in _cells_that_run(written) if cell != "1e-05"]
    assert tables.unguarded(list(csv.reader(written.splitlines(keepends=True)))[1][0]).strip() == text.strip()
    (tmp_path / "list.csv").write_text(written, newline="")
    assert tables.read_rows(tmp_path / "list.csv", Problems())[2][1] == "-1.5"


@given(st.lists(st.text("'=+-@\t\r\n,;\"a1", max_size=7), min_size=1, max_size=4))
def test_every_cell_survives(cells):
    written = tables.csv_text([["-x-", *cells]])
    (row,) = csv.reader(written.splitlines(keepends=True) and [written])
    assert [tables.unguarded(cell) for cell in row] == ["-x-", *cells]


@pytest.mark.parametrize("number", ["-1", "-0.5", "+2", "-1.5e-05", "3"])
def test_numbers_stay_numbers(number):
    assert tables.csv_text([[number]]) == f"{number}\r\n"


@pytest.mark.parametrize("name", ["=1+1", "@me", "-x", "a;=1"])
def test_names_with_formulas_are_safe_in_every_table(tmp_path, name):
    info = ClipInfo(name, name, name, -1.0, 5)
    output = Output((), (), 1.0, low=-4.0, high=4.0)
    predictions = evaluation.Predictions([info], np.array([-2.5]), output)
    evaluation._write_csv(predictions, tmp_path / "predictions.csv")
    row = tables.read_rows(tmp_path / "predictions.csv", Problems())[2]
    assert row == [name] * 3 + ["-1.0", "-2.500000", "-2.500000"]

    with score_output.Table(tmp_path / "scores.csv", overwrite=False) as table:
        table.add({"input": name, "status": "ok", "score": "-1.5", "settings": "x"})
    again = score_output.Table(tmp_path / "scores.csv", overwrite=False)
    assert again.find(name, "x")["score"] == "-1.5"

    (tmp_path / "clips.csv").write_text(tables.csv_text([[*HEADER, "video"], [name, name, name, "-1", name]]))
    clips = batch.ClipList(tmp_path)
    assert tables.read_rows(clips.path, Problems())[2] == [name, name, name, "-1", name]
    for file in tmp_path.glob("*.csv"):
        assert not list(_cells_that_run(file.read_text()))


def test_a_row_of_scores_that_a_crash_filled_with_zeros_is_scored_again(tmp_path, monkeypatch):
    table = tmp_path / "scores.csv"
    values = dict.fromkeys(score_output.COLUMNS, "1") | {"status": "ok"}
    rows = [list((values | {"input": path}).values()) for path in ("a\0.mp4", "b.mp4")]
    table.write_text(tables.csv_text([list(values), *rows]))
    monkeypatch.chdir(tmp_path)
    found = score_output.Table(table, overwrite=False)
    assert found.find("b.mp4", "1") is not None
    assert found.find("a.mp4", "1") is None


@pytest.mark.parametrize("content", [b"", b"a,b\n", "input,stätus\n".encode("cp1252")])
def test_another_table_is_not_taken_for_scores(tmp_path, content):
    (tmp_path / "scores.csv").write_bytes(content)
    with user_error("not_scores", tmp_path / "scores.csv"):
        score_output.Table(tmp_path / "scores.csv", overwrite=False)


def test_excel_shows_numbers_as_numbers(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["path", "subject"])
    book.active.append(["a", 7])
    book.active["B2"].number_format = "000"
    book.save(tmp_path / "list.xlsx")
    assert tables.read_rows(tmp_path / "list.xlsx", Problems())[2] == ["a", "7"]


def _book(path, rows, change=lambda book, sheet: None):
    """A workbook with ``rows``, changed as someone would in a spreadsheet program."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    change(book, book.active)
    book.save(path)
    return tables.read_table(path, HEADER, Problems())[1]


def test_merged_cells_are_read_in_all_their_rows(tmp_path):
    def merge(book, sheet):
        for cells in ("B2:B4", "F2:F3", "F4:G5", "A7:D7"):
            sheet.merge_cells(cells)

    rows = [[*HEADER, "notes", "group", "fps"]]
    rows += [[f"c{i}", ["anna", "ben"][i > 2], "smile", i, None, ["PD", None, "HC", None][i], 50] for i in range(4)]
    read = _book(tmp_path / "list.xlsx", [*rows, [], ["all rated by one person"]], merge)
    assert [row["subject"] for row in list(read.values())[:4]] == ["anna", "anna", "anna", "ben"]
    assert [row["group"] for row in list(read.values())[:4]] == ["PD", "PD", "HC", "HC"]
    assert sorted(read) == [2, 3, 4, 5, 7]


def test_the_sheet_that_is_shown_is_read(tmp_path):
    def hide(book, sheet):
        sheet.sheet_state = "hidden"
        for row in (HEADER, ["c0", "anna", "smile", 4]):
            book.create_sheet("now").append(row) if row is HEADER else book["now"].append(row)
        book.active = 1

    assert _book(tmp_path / "list.xlsx", [HEADER, ["c0", "anna", "smile", 1]], hide)[2]["score"] == "4"


ROWS = [HEADER, ["c0", "anna", "smile", 1], ["c1", "ben", "smile", 2]]


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        ([HEADER, ["c2", "eva", "smile", 3]], True),
        ([[*HEADER, "notes"], ["c2", "eva", "smile", 3, "x"]], True),
        ([["subject", "Path", "score", "expression"], ["eva", "c2", 3, "smile"]], True),
        ([["c2", "eva", "smile", 3]], True),
        ([["from the other ward"], [], HEADER, ["c2", "eva", "smile", 3]], True),
        ([["subject", "age"], ["anna", 50], ["ben", 60]], False),
        ([HEADER], False),
        ([["code", "name"], [1, "x"]], False),
        ([], False),
    ],
)
def test_rows_of_a_second_sheet_are_not_lost(tmp_path, rows, refused):
    def add(book, sheet):
        for row in rows:
            book["more"].append(row) if "more" in book else book.create_sheet("more").append(row)

    if not refused:
        assert sorted(_book(tmp_path / "list.xlsx", ROWS, add)) == [2, 3]
        return
    with user_error("unreadable_table", "list.xlsx", "more"):
        _book(tmp_path / "list.xlsx", ROWS, add)


def test_a_hidden_row_is_named(tmp_path):
    def hide(book, sheet):
        sheet.row_dimensions[3].hidden = sheet.row_dimensions[9].hidden = True

    with user_error("unreadable_table", "list.xlsx", "row 3", "hidden"):
        _book(tmp_path / "list.xlsx", ROWS, hide)
    assert sorted(_book(tmp_path / "list.xlsx", ROWS[:2], hide)) == [2]  # hidden rows without contents do not matter


def test_a_formula_without_a_saved_value_is_named(tmp_path):
    for cells in (["c1", "ben", "smile", "=1+1"], ["c1", "=A3", "smile", 2]):
        with user_error("unreadable_table", "list.xlsx", "row 3", "formula"):
            _book(tmp_path / "list.xlsx", [*ROWS[:2], cells])


@pytest.mark.parametrize(
    "name", [123456789012345681.0, 123456789012345699, 1.2345678901234e16, datetime.datetime(2024, 3, 4)]
)
def test_a_workbook_that_lost_a_name_is_refused(tmp_path, name):
    made = _save(tmp_path, b"")
    (tmp_path / "clips.csv").unlink()
    _book(tmp_path / "clips.xlsx", [HEADER, ["c0", name, "smile", 1], ["c1", "b", "smile", 2]])
    with user_error("bad_id", "clips.xlsx", "row 2"):
        datasets.open_dataset(made)


@pytest.mark.parametrize("number", [14, 27, 36, 50, 58])
def test_numbers_with_a_format_of_dates_are_dates(tmp_path, number):
    """Those above 22 are dates in East Asian spreadsheets."""
    _book(tmp_path / "a.xlsx", [HEADER, ["c0", 44256, "smile", 1]], lambda _, x: setattr(x["B2"], "number_format", "0"))
    with zipfile.ZipFile(tmp_path / "a.xlsx") as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'numFmtId="1"', b'numFmtId="%d"' % number))
    assert tables.read_rows(tmp_path / "b.xlsx", Problems())[2][1] == "2021-03-01 00:00:00"


@pytest.mark.parametrize(
    "xml",
    [b"<c" * (1 << 19), b'<row hidden="1"' * (1 << 18), b"<c r='A1'><f>" * (1 << 18), b"<mergeCell ref=" * (1 << 18)],
)
def test_hostile_xml_of_a_sheet_takes_little_time(xml):
    started = time.perf_counter()
    assert list(tables._as_shown([["a"]], xml)) == [["a"]]
    assert time.perf_counter() - started < 10
