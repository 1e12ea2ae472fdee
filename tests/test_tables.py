"""Lists as CSV files and as Excel workbooks: the same text from both, and files that are not tables."""

import zipfile

import pytest

from tests import published_layouts
from tests.published_layouts import as_workbook, write_workbook
from tests.raises import user_error
from tramp_jax.data import tables
from tramp_jax.data.problems import Problems
from tramp_jax.data.readers import folder, neuroface, pfed5
from tramp_jax.data.source import Wanted

ROWS = [["Path", "Score", "Note"], ["a", 3, None], [None, None, None], [" b ", 2.5, "1.50"], ["c", 4.0, True]]


def test_a_workbook_reads_as_its_csv_file_would(tmp_path):
    write_workbook(tmp_path / "list.xlsx", ROWS)
    (tmp_path / "list.csv").write_text("Path,Score,Note\na,3,\n,,\n b ,2.5,1.50\nc,4,True\n")
    found = [tables.read_table(tmp_path / f"list.{kind}", ("path", "score"), Problems()) for kind in ("csv", "xlsx")]
    assert found[0] == found[1]
    assert found[0][1][5] == {"path": "c", "score": "4", "note": "True"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_recognised(tmp_path, separator):
    text = 'Path,Score,Note\na,3,"x"\n'
    (tmp_path / "commas.csv").write_text(text)
    (tmp_path / "others.csv").write_text(text.replace(",", separator))
    found = [tables.read_rows(tmp_path / f"{name}.csv", Problems()) for name in ("commas", "others")]
    assert found[0] == found[1] == {1: ["Path", "Score", "Note"], 2: ["a", "3", "x"]}


@pytest.mark.parametrize("content", [b"", b"Path,Score\na,3\n", b"PK\x03\x04 and then nothing", None])
def test_a_file_that_is_not_a_workbook_is_named(tmp_path, content):
    path = tmp_path / "list.xlsx"
    if content is None:  # a ZIP archive of something else
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
    else:
        path.write_bytes(content)
    problems = Problems(collect=True)
    assert tables.read_table(path, ("path",), problems) == ([], {})
    assert [problem.kind for problem in problems.found] == ["unreadable_table"]
    with user_error("unreadable_table", path, "Excel workbook", "CSV file"):
        tables.read_rows(path, Problems())


def test_a_truncated_workbook_is_named(tmp_path):
    path = tmp_path / "list.xlsx"
    write_workbook(path, ROWS)
    path.write_bytes(path.read_bytes()[:-40])
    with user_error("unreadable_table", path, "damaged"):
        tables.read_rows(path, Problems())


def test_other_spreadsheets_are_refused_with_the_cure(tmp_path):
    (tmp_path / "list.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    with user_error("unreadable_table", tmp_path / "list.xls", "CSV file", "Excel workbook (.xlsx)"):
        tables.read_rows(tmp_path / "list.xls", Problems())


@pytest.mark.parametrize(
    ("write", "lists", "reader"),
    [
        (published_layouts.write_neuroface, ("neuroface_split.csv", "ratings.csv"), neuroface),
        (lambda root: published_layouts.write_folder(root, 2), ("clips.csv",), folder),
        (lambda root: published_layouts.write_pfed5(root, 1, 1, ("smile",)), ("train_41.csv", "test_41.csv"), pfed5),
    ],
    ids=["neuroface", "folder", "pfed5"],
)
def test_readers_take_their_lists_as_workbooks(tmp_path, write, lists, reader):
    def infos():
        return reader.open(tmp_path, reader.Options(), Wanted(), Problems()).source.infos

    write(tmp_path)
    expected = [(x.id, x.subject, x.score, x.targets) for x in infos()]
    for name in lists:
        as_workbook(tmp_path / name)
    found = infos()
    assert [(x.id, x.subject, x.score, x.targets) for x in found] == expected
    assert ".xlsx, row 2" in found[0].source
    (tmp_path / lists[0]).write_text("")
    with user_error("ambiguous_list", tmp_path, lists[0], lists[0].replace(".csv", ".xlsx"), "=FILE"):
        infos()
