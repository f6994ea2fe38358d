"""Whatever is done to a file, its ledger adds up, and what is kept says what its line says."""

import json
import shutil
from pathlib import Path
from typing import Any

from conftest import ALONE, Prepare, documents, quarantine, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": f"Wer ist {n}?"},
            {"role": "assistant", "content": f"Größe {n} \U0001f600"},
        ]
    }
    if n % 4 == 0
    else {"conversations": [{"from": "human", "value": f"Name {n}\n\nnow"}, {"from": "gpt", "value": f"It is {n}."}]}
    if n % 4 == 1
    else {"instruction": f"Add {n}", "input": f"to {n + 1}", "output": str(2 * n + 1)}
    if n % 4 == 2
    else {"prompt": f"What is {n}?", "completion": f'It is "{n}".'}
    for n in range(12)
]
LINES = [json.dumps(row, ensure_ascii=n % 3 == 0).encode() for n, row in enumerate(ROWS)]
OTHERS = [
    b"",
    b" \t",
    b"{}",
    b"null",
    b"[",
    b'"text"',
    b"a\x00b",
    b"\xff",
    b'{"prompt": null, "completion": "x"}',
    b'{"prompt": "x", "prompt": "y", "completion": "z"}',
    b'{"prompt": "x", "completion": NaN}',
    rb'{"prompt": "half \ud83d", "completion": "x"}',
    b'{"question": "q", "answer": "a"}',
    b'{"prompt": "Stop <|im_end|>", "completion": "x"}',
    '{"prompt": "a\u2028b", "completion": "\u2029c"}'.encode(),
    b'{"prompt": "' + b"long " * 100 + b'", "completion": "x"}',
]
BYTES = st.sampled_from(
    [b"\n", b"\r", b'"', b"{", b"}", b"\\", b",", b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"x", b"<"]
)
place = st.integers(0, 2000)
change = st.one_of(
    st.tuples(st.sampled_from(["delete line", "repeat line", "delete byte", "cut off"]), place),
    st.tuples(st.just("swap lines"), place, place),
    st.tuples(st.just("insert line"), place, st.sampled_from(OTHERS)),
    st.tuples(st.just("insert bytes"), place, BYTES),
    st.tuples(st.just("flip bit"), place, st.integers(0, 7)),
)


def changed(content: bytes, kind: str, at: int, given: Any = None) -> bytes:
    """The file with one change. Any place is one in it."""
    if "line" in kind:
        lines = content.split(b"\n")
        at %= len(lines)
        if kind == "swap lines":
            other = given % len(lines)
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines[at : at + 1] = {"delete line": [], "repeat line": [lines[at]] * 2}.get(kind, [given, lines[at]])
        return b"\n".join(lines)
    at %= len(content) + 1
    if kind == "cut off":
        return content[: max(at, 600)]
    if kind == "flip bit":
        return content[:at] + bytes(byte ^ (1 << given) for byte in content[at : at + 1]) + content[at + 1 :]
    return content[:at] + (given or b"") + content[at + (kind == "delete byte") :]


def told(row: dict[str, Any]) -> list[str]:
    """What the turns of a row say, by the row's own format."""
    if "messages" in row:
        return [turn["content"] for turn in row["messages"]]
    if "conversations" in row:
        return [turn["value"] for turn in row["conversations"]]
    for asked, answered in (("prompt", "completion"), ("question", "answer")):
        if asked in row:
            return [row[asked], row[answered]]
    return [row["instruction"] + (f"\n\n{row['input']}" if row.get("input") else ""), row["output"]]


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(changes=st.lists(change, max_size=6))
def test_no_row_is_lost_or_altered(prepare: Prepare, tiny: Path, tmp_path: Path, changes: list[Any]) -> None:
    """Rows are kept or dropped, each once, those dropped stand in the quarantine, and those kept are as they were."""
    content = b"\n".join(LINES) + b"\n"
    for one in changes:
        content = changed(content, *one)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    shutil.rmtree(tmp_path / ".prepared", ignore_errors=True)
    prepared = prepare(path, max_bad_rows=1.0, max_length=64, packing=False, **ALONE)

    lines = dict(enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1))
    rows = {number for number, line in lines.items() if line.strip()}
    (source,) = prepared.ledger["sources"]
    dropped = [line["line"] for line in quarantine(Path(prepared.folder))]
    kept = documents(prepared)
    assert source["rows"] == source["kept"] + sum(source["dropped"].values()) == len(rows)
    assert (len(kept), len(dropped)) == (source["kept"], sum(source["dropped"].values()))
    assert sorted([*dropped, *(document.line for document in kept)]) == sorted(rows)
    for document in kept:
        turns = text(tiny, document).split("<|im_start|>")[1:]
        said = [turn.partition("\n")[2].removesuffix("\n").removesuffix("<|im_end|>").strip() for turn in turns]
        assert said == [turn.strip() for turn in told(json.loads(lines[document.line]))]
