"""Every row of a file is read exactly once, with the line that it has there, in memory that stays flat."""

import gzip
import json
import os
import pickle
import re
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows
from read import details, lines, written

from smollm3_ft import reading
from smollm3_ft.errors import DataError


def test_lines_count_as_in_the_file(tmp_path: Path) -> None:
    """A byte order mark, CRLF and blank lines are no rows, and bad lines are told with their number."""
    path = written(
        tmp_path / "rows.jsonl",
        b'\xef\xbb\xbf{"n": 1}\r\n'
        b"\r\n"
        b'{"n": 3}\r\n'
        b"{bad}\n"
        b"   \n"
        b'"text"\n'
        b'{"n": "\xe9"}\n'
        b'{"n": 8} {"n": 8}\n'
        b'[{"n": 9}]\n'
        b'{"n": "\xe2\x80\xa8"}\n'
        b'{"n": 11, "cut',
    )
    assert lines(path) == [
        (1, {"n": 1}),
        (3, {"n": 3}),
        (4, "malformed_json"),
        (6, "not_an_object"),
        (7, "not_utf8"),
        (8, "malformed_json"),
        (9, "not_an_object"),
        (10, {"n": "\u2028"}),
        (11, "malformed_json"),
    ]


def test_a_last_line_without_its_end(tmp_path: Path) -> None:
    """A file that does not end in a newline loses no row."""
    assert lines(written(tmp_path / "rows.jsonl", b'{"n": 1}\n{"n": 2}')) == [(1, {"n": 1}), (2, {"n": 2})]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands 2 times in one object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b"[" * 100_000, "nested more than 200 deep"),
        (b'{"a": ' * 300 + b"1" + b"}" * 300, "nested more than 200 deep"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": "\xff"}', "byte 8 of the line"),
        (b'{"a": 1, b}', "Expecting property name enclosed in double quotes at column 10"),
        (b"[", r"in a list, belong in a \.json file"),
        (b"{", r"rows over several lines, or in a list, belong in a \.json file"),
        (b'[{"a": 1}]', r"this is a list; .* belong in a \.json file"),
        (b"null", "this is null"),
    ],
)
def test_a_bad_line_says_why(tmp_path: Path, line: bytes, said: str) -> None:
    """The detail of a line that is no row lets its author mend it; the line after it is read."""
    path = written(tmp_path / "rows.jsonl", line + b'\n{"n": 2}\n')
    (detail,) = details(path)
    assert lines(path)[1] == (2, {"n": 2})
    assert re.search(said, detail)


def test_a_line_of_many_brackets_is_not_deep(tmp_path: Path) -> None:
    """Only nesting is limited, not the number of objects."""
    row = {"a": [{"b": [n]} for n in range(300)]}
    assert lines(write_rows(tmp_path / "rows.jsonl", [row])) == [(1, row)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.txt", "rows.csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_text_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    """Text as some editors of Windows write it is told from damage, with what to do."""
    path = written(tmp_path / name, '{"n": 1}\n'.encode(encoding))
    with pytest.raises(DataError, match=rf"{name}:1 is UTF-16 or UTF-32 text; save it as UTF-8"):
        lines(path)


def test_blocks_are_whole_lines(tmp_path: Path) -> None:
    """Blocks of JSON lines are about as long as is said, and can be handed to another process; none loses a row."""
    path = write_rows(tmp_path / "rows.jsonl", ({"n": n, "text": "é" * (n % 2000)} for n in range(2000)))
    blocks = pickle.loads(pickle.dumps(list(reading.blocks(path))))
    sizes = [len(block.content) for block in blocks]
    assert len(sizes) > 1
    assert max(sizes) < 2 * reading.BLOCK
    assert b"".join(block.content for block in blocks) == path.read_bytes()
    assert [line.row["n"] for block in blocks for line in reading.lines(block)] == list(range(2000))
    assert all(next(iter(reading.lines(block))).number == block.first for block in blocks)
    assert sum(map(reading.count, blocks)) == 2000


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_row_of_50_mb(tmp_path: Path, name: str) -> None:
    """A row of any length is one row, and the one after it is read."""
    row = b"a" * 50_000_000
    rows = {
        ".jsonl": b'{"text": "%s"}\n{"text": "b"}' % row,
        ".json": b'[{"text": "%s"},\n{"text": "b"}]' % row,
        ".csv": b"text\n%s\nb\n" % row,
        ".txt": b"%s\nb" % row,
    }
    (_, first), (_, second) = lines(written(tmp_path / name, rows[Path(name).suffix]))
    assert (len(first["text"]), second) == (50_000_000, {"text": "b"})


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "txt", "parquet"])
def test_memory_stays_flat(tmp_path: Path, kind: str) -> None:
    """Reading a file of 20 MB takes the memory of a few blocks."""
    path, texts = tmp_path / f"rows.{kind}", [f"{n:06}" * 170 for n in range(20_000)]
    if kind == "parquet":
        pq.write_table(pa.table({"text": texts}), path, use_dictionary=False, row_group_size=1000)
    else:
        rows = [json.dumps({"text": text}) if kind.startswith("json") else text for text in texts]
        around = {"json": ("[", ",\n", "]"), "csv": ("text\n", "\n", "")}.get(kind, ("", "\n", ""))
        path.write_text(around[0] + around[1].join(rows) + around[2])
    del texts
    rows = []
    tracemalloc.start()
    for block in reading.blocks(path):
        assert reading.count(block) <= 2000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12_000_000


def test_a_json_list(tmp_path: Path) -> None:
    """The rows of a list have the lines where they begin."""
    content = '\ufeff[{"n": 1}, "text",\n\n  {"n":\n 3}\n,\n{"n": 4, "n": 4}, {"n": NaN},\n[]]\n'
    assert lines(written(tmp_path / "rows.json", content.encode())) == [
        (1, {"n": 1}),
        (1, "not_an_object"),
        (3, {"n": 3}),
        (6, "duplicate_key"),
        (6, "malformed_json"),
        (7, "not_an_object"),
    ]


def test_a_byte_that_is_no_utf8_spoils_one_row_of_a_list(tmp_path: Path) -> None:
    """The rows before and after it are read; half a character that is written out is no such byte."""
    path = written(tmp_path / "rows.json", b'[{"n": 1},\n{"n":\n"\xff"}, {"n": "\\udcff"}]')
    assert lines(path) == [(1, {"n": 1}), (2, "not_utf8"), (3, {"n": "\udcff"})]
    assert details(path) == ["byte 0xff in line 3"]


def test_a_json_object_is_one_row(tmp_path: Path) -> None:
    """A top-level object in a .json file is one row."""
    assert lines(written(tmp_path / "rows.json", b'\n{\n  "n": 1\n}\n')) == [(2, {"n": 1})]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_values_may_be_cut_anywhere(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are the same wherever the pieces end that a file is read in."""
    monkeypatch.setattr(reading, "BLOCK", size)
    rows = [{"n": 12345, "text": 'é\u2028\U0001f600 "\\ ' * 5, "x": [True, None, -1.5e3]}, {}, {"deep": {"a": [1, 2]}}]
    path = written(tmp_path / "rows.json", json.dumps(rows, indent=1, ensure_ascii=False).encode())
    assert [row for _, row in lines(path)] == rows
    assert [row for _, row in lines(write_rows(tmp_path / "rows.jsonl", rows))] == rows
    assert [row for _, row in lines(written(tmp_path / "n.json", b'[12345, true, "a"]'))] == ["not_an_object"] * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"n": 1},\n{"n"]', r"rows\.json:2 is not JSON \(Expecting ':' delimiter\)"),
        (b'[{"n": 1},\n{"n": 2}', r"rows\.json:2 is not JSON \(the list is not closed\)"),
        (b'[{"n": 1}\n\n{"n": 2}]', r"rows\.json:3 is not JSON \(a comma is missing\)"),
        (b'[{"n": 1},\n', r"rows\.json:2 is not JSON \(Expecting value\)"),
        (b'[{"n": 1}]\n]', r"rows\.json:2 holds more after its end"),
        (b'{"n": 1}\n{"n": 2}\n', r"rows\.json:2 holds more after its end; name it \.jsonl"),
        (b"[" * 100_000, r"rows\.json:1 is not JSON \(nested too deeply\)"),
        (b'[{"n": "\n', r"rows\.json:1 is not JSON \(Invalid control character at\)"),
    ],
)
def test_a_broken_json_file(tmp_path: Path, content: bytes, said: str) -> None:
    """Where a .json file breaks off, or no row can be told any more, its line is named."""
    path = written(tmp_path / "rows.json", content)
    with pytest.raises(DataError, match=said):
        lines(path)


def test_lines_of_text(tmp_path: Path) -> None:
    """Each line of a .txt file is a row, as it stands."""
    path = written(tmp_path / "rows.txt", b" one \r\n\n\xe2\x80\xa8two\rthree\n\xff\n\0\nlast")
    assert lines(path) == [
        (1, {"text": " one "}),
        (3, {"text": "\u2028two\rthree"}),
        (4, "not_utf8"),
        (5, "nul_byte"),
        (6, {"text": "last"}),
    ]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.zst", "rows.csv.gz", "rows.txt.zst", "rows.TSV.GZ"])
def test_packed_files(tmp_path: Path, name: str) -> None:
    """A packed file is read as the one that is in it, also where several were packed one after the other."""
    content = {"jsonl": b'{"text": "a"}\n', "json": b'{"text": "a"}', "csv": b"text\na\n"}
    raw = content.get(name.split(".")[1], b"a\n" if "txt" in name else b"text\na\n")
    pack = gzip.compress if name.lower().endswith("gz") else lambda raw: pa.compress(raw, "zstd", asbytes=True)
    path = written(tmp_path / name, pack(raw[:5]) + pack(raw[5:]))
    assert [row for _, row in lines(path)] == [{"text": "a"}]


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_packed_file_that_is_cut_off(tmp_path: Path, kind: str) -> None:
    """The place of the damage is told, near enough."""
    rows = b"".join(b'{"n": %d, "text": "%d"}\n' % (n, n * 7919) for n in range(20_000))
    packed = gzip.compress(rows) if kind == "gz" else pa.compress(rows, "zstd", asbytes=True)
    path = written(tmp_path / f"rows.jsonl.{kind}", packed[: len(packed) * 3 // 4])
    with pytest.raises(DataError, match=r"cannot be unpacked from about line 1\d\d\d\d on .* get it again"):
        lines(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    """A pipe is refused at once, since reading it could wait for ever."""
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl is no file that can be read"):
        lines(tmp_path / "rows.jsonl")
