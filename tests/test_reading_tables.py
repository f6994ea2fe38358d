"""Rows of comma- and tab-separated values, of Parquet, and of what `datasets` keeps of the Hub's."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read import details, lines, shown, written

from smollm3_ft import csvfile, reading
from smollm3_ft.errors import DataError


def test_comma_separated_rows(tmp_path: Path) -> None:
    """Rows begin where they do in the file, quoted line ends and all, and have the header's names."""
    content = b'\xef\xbb\xbfq,a\r\n\r\n"one\r\ntwo","say ""x"""\r\n5" pipe,\n1\n1,2,3\nx,\xff\nx,\0\nx,y'
    assert lines(written(tmp_path / "rows.csv", content)) == [
        (3, {"q": "one\r\ntwo", "a": 'say "x"'}),
        (5, {"q": '5" pipe', "a": ""}),
        (6, "wrong_columns"),
        (7, "wrong_columns"),
        (8, "not_utf8"),
        (9, "nul_byte"),
        (10, {"q": "x", "a": "y"}),
    ]
    assert details(tmp_path / "rows.csv")[0] == "1 fields, the header has 2"


def test_tab_separated_rows(tmp_path: Path) -> None:
    """A .tsv file is the same with tabs."""
    assert lines(written(tmp_path / "rows.tsv", b"q\ta\n1,2\t3\n")) == [(2, {"q": "1,2", "a": "3"})]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"rows\.csv:1 has no header"),
        (b"\n \n", r"rows\.csv:1 has no header"),
        (b"\na,b,a\n1,2,3\n", r"rows\.csv:2: columns 1, 3 have the same name"),
        (b"a,\xff\n1,2\n", r"rows\.csv:1: the header is no UTF-8 text"),
        (b'a,b\n1,2\n3,"4\n5,6\n7,8\n', r"rows\.csv:3 cannot be read \(unexpected end of data\); close the quote"),
        (b'a,b\n1,2\n3,"4\n5,6\n7,"8\n', r"rows\.csv:3 cannot be read \(',' expected after '\"'\); close the quote"),
        (b'a,b\n"1\n","2\n\n\n', r"rows\.csv:3 cannot be read \(unexpected end of data\)"),
        (b'a,b\n1,2\n3,"4"5\n', r"rows\.csv:3 cannot be read \(',' expected after '\"'\); close the quote"),
        (b'a,b\n1,"2\n"3"\n4,5\n', r"rows\.csv:2 cannot be read \(',' expected after '\"'\)"),
        (b'a,b\n"1","2""\n",3\n"4","","x\n5\n', r"rows\.csv:4 cannot be read \(unexpected end of data\)"),
        (b"a,b\r1,2\r", r"rows\.csv:1 cannot be read .*; end lines with a line feed"),
    ],
)
def test_a_broken_csv_file(tmp_path: Path, content: bytes, said: str) -> None:
    """Where the columns are unknown, or a quote makes it unknown where rows end, the line is named."""
    path = written(tmp_path / "rows.csv", content)
    with pytest.raises(DataError, match=said):
        lines(path)


def test_an_open_quote_swallows_so_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is not read into memory to its end to find that a quote is open."""
    monkeypatch.setattr(csvfile, "LONGEST_FIELD", 1000)
    path = written(tmp_path / "rows.csv", b'a,b\n1,"' + b"x\n" * 600)
    with pytest.raises(DataError, match=r"rows\.csv:2 cannot be read \(field larger than .*; close the quote"):
        lines(path)


def test_a_parquet_file(tmp_path: Path) -> None:
    """Rows are numbered over the row groups, and have Python's values; JSON that is kept as text is read."""
    table = pa.table(
        {"n": list(range(2500)), "m": [[{"role": "user"}]] * 2500, "j": pa.array(["[1]"] * 2500, pa.json_())}
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=1100)
    found = lines(tmp_path / "rows.parquet")
    assert [number for number, _ in found] == list(range(1, 2501))
    assert found[1999][1] | {"j": None} == {"n": 1999, "m": [{"role": "user"}], "j": None}
    assert reading.count_rows(tmp_path / "rows.parquet") == 2500


def test_a_value_that_python_cannot_have_is_one_bad_row(tmp_path: Path) -> None:
    """A date beyond the calendar, or text that is no UTF-8, spoils no other row."""
    pq.write_table(pa.table({"at": pa.array([0, 2**62, 1], pa.timestamp("us"))}), tmp_path / "rows.parquet")
    assert [isinstance(row, dict) or row for _, row in lines(tmp_path / "rows.parquet")] == [
        True,
        "unreadable_value",
        True,
    ]


def test_columns_of_one_name(tmp_path: Path) -> None:
    """Two columns of the same name are refused, since a row could hold one of them only."""
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet: 2 columns are called 'a'"):
        lines(tmp_path / "rows.parquet")


def test_arrow_files_of_datasets(tmp_path: Path) -> None:
    """A cached Hub split is read under its own name, counting on; mixed values that are kept as JSON are themselves."""
    table = pa.table({"n": [1, 2], "tools": pa.array(['["x"]', None], pa.json_())})
    with pa.OSFile(str(tmp_path / "0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (block,) = reading.blocks(tmp_path / "0.arrow", "a/b:train", 7)
    assert (block.place, block.first) == ("a/b:train", 7)
    assert shown(reading.lines(block)) == [(7, {"n": 1, "tools": ["x"]}), (8, {"n": 2, "tools": None})]


def test_a_cache_that_is_damaged(tmp_path: Path) -> None:
    """Lengths that lead out of an Arrow file, which is mapped into memory, do not end the process."""
    table = pa.table({"text": ["one", "two"]})
    with pa.OSFile(str(tmp_path / "0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    good = (tmp_path / "0.arrow").read_bytes()
    offsets = good.index(bytes([0, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0]))
    written(tmp_path / "0.arrow", good[: offsets + 4] + b"\xff\xff\xff\x7f" + good[offsets + 8 :])
    with pytest.raises(DataError, match=r"0\.arrow cannot be read as Arrow"):
        lines(tmp_path / "0.arrow")
