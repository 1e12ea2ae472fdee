"""Lists as CSV files and as Excel workbooks: the same text from both, and what is no table at all."""

import zipfile

import pytest

from tests import published_layouts
from tests.published_layouts import as_workbook, write_workbook
from tramp_jax.data import tables
from tramp_jax.data.problems import DataError, Problems
from tramp_jax.data.readers.folder import Folder
from tramp_jax.data.readers.neuroface import NeuroFace
from tramp_jax.data.readers.pfed5 import PFED5

ROWS = [["Path", "Score", "Note"], ["a", 3, None], [None, None, None], [" b ", 2.5, "1.50"], ["c", 4.0, True]]


def test_a_workbook_reads_as_its_csv_file_would(tmp_path):
    write_workbook(tmp_path / "list.xlsx", ROWS)
    (tmp_path / "list.csv").write_text("Path,Score,Note\na,3,\n,,\n b ,2.5,1.50\nc,4,True\n")
    found = [tables.read_table(tmp_path / f"list.{kind}", ("path", "score"), Problems()) for kind in ("csv", "xlsx")]
    assert found[0] == found[1]
    assert found[0][1][5] == {"path": "c", "score": "4", "note": "True"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_noticed(tmp_path, separator):
    text = 'Path,Score,Note\na,3,"x"\n'
    (tmp_path / "commas.csv").write_text(text)
    (tmp_path / "others.csv").write_text(text.replace(",", separator))
    found = [tables.read_rows(tmp_path / f"{name}.csv", Problems()) for name in ("commas", "others")]
    assert found[0] == found[1] == {1: ["Path", "Score", "Note"], 2: ["a", "3", "x"]}


@pytest.mark.parametrize("content", [b"", b"Path,Score\na,3\n", b"PK\x03\x04 and then nothing", None])
def test_what_is_no_workbook_is_told(tmp_path, content):
    path = tmp_path / "list.xlsx"
    if content is None:  # a ZIP archive of something else
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
    else:
        path.write_bytes(content)
    problems = Problems(collect=True)
    assert tables.read_table(path, ("path",), problems) == ([], {})
    assert [problem.kind for problem in problems.found] == ["unreadable_table"]
    with pytest.raises(DataError, match=r"list\.xlsx: is damaged, encrypted, or no Excel workbook .*as a CSV file"):
        tables.read_rows(path, Problems())


def test_a_truncated_workbook_is_told(tmp_path):
    path = tmp_path / "list.xlsx"
    write_workbook(path, ROWS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"list\.xlsx: is damaged"):
        tables.read_rows(path, Problems())


def test_other_spreadsheets_are_refused_with_the_cure(tmp_path):
    (tmp_path / "list.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError, match=r"list\.xls: save the table as a CSV file or an Excel workbook \(\.xlsx\)"):
        tables.read_rows(tmp_path / "list.xls", Problems())


@pytest.mark.parametrize(
    ("write", "lists", "reader"),
    [
        (published_layouts.write_neuroface, ("neuroface_split.csv", "ratings.csv"), NeuroFace),
        (lambda root: published_layouts.write_folder(root, 2), ("clips.csv",), Folder),
        (lambda root: published_layouts.write_pfed5(root, 1, 1, ("smile",)), ("train_41.csv", "test_41.csv"), PFED5),
    ],
    ids=["neuroface", "folder", "pfed5"],
)
def test_readers_take_their_lists_as_workbooks(tmp_path, write, lists, reader):
    write(tmp_path)
    expected = [(x.id, x.subject, x.score, x.targets) for x in reader(tmp_path).infos]
    for name in lists:
        as_workbook(tmp_path / name)
    found = reader(tmp_path)
    assert [(x.id, x.subject, x.score, x.targets) for x in found.infos] == expected
    assert ".xlsx, row 2" in found.infos[0].source
    (tmp_path / lists[0]).write_text("")
    with pytest.raises(DataError, match=r"both \w+\.csv and \w+\.xlsx are there; remove one, or choose"):
        reader(tmp_path)
