"""What is wrong with rows is said without them: errors are kept by Prefect, reported, and handed on."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ALONE, Prepare, quarantine

from smollm3_ft.errors import DataError

WREN = "goldcrestwren"  # stands in every row
ROWS: dict[str, Any] = {
    "text": f'"{WREN}"',
    "cut off": f'{{"prompt": "{WREN}',
    "something behind": f'{{"prompt": "a"}} {WREN}',
    "a key twice": f'{{"{WREN}": 1, "{WREN}": 2}}',
    "unknown columns": {WREN: 1, "other": 2},
    "no text": {"prompt": "a", "completion": {WREN: 1}},
    "no messages": {"messages": WREN},
    "no role": {"messages": [{"role": WREN, "content": WREN}]},
    "no content": {"messages": [{"role": "user", "content": [{"type": WREN}]}]},
    "one side": {"messages": [{"role": "assistant", "content": WREN}]},
    "a call": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{WREN: WREN}]}]},
    "the same answers": {"prompt": WREN, "chosen": WREN, "rejected": WREN},
    "a label": {"prompt": WREN, "completion": WREN, "label": WREN},
}
FILES = {
    "no-header.csv": f"{WREN} one,{WREN} two\n{WREN},b\n",
    "one-name.csv": f"{WREN},{WREN}\na,b\n",
    "open-quote.csv": f'prompt,completion\n"{WREN} x" y,b\n',
    "cut-off.json": f'[{{"prompt": "{WREN}"',
    "more.json": f'{{"{WREN}": [1]}} {WREN}',
    "other.parquet": WREN * 20,
    "other.jsonl.gz": WREN * 20,
}


@pytest.mark.parametrize("kind", ROWS)
def test_why_data_is_refused_is_said_without_a_row(prepare: Prepare, tmp_path: Path, kind: str) -> None:
    """The error has the place and the reason; what the row says stays in the quarantine, on this machine."""
    with pytest.raises(
        DataError, match=r"1 of 1 rows of .* cannot be used: 1 \w+ \(first: .*rows\.jsonl:1\)"
    ) as caught:
        prepare([ROWS[kind]], **ALONE)
    assert WREN not in str(caught.value)
    assert quarantine(tmp_path / "beside")[0]["line"] == 1


@pytest.mark.parametrize("name", FILES)
def test_why_a_file_is_refused_is_said_without_its_text(prepare: Prepare, tmp_path: Path, name: str) -> None:
    """A first line that is a row and no header, too."""
    (tmp_path / name).write_text(FILES[name])
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / name, **ALONE)
    assert WREN not in str(caught.value)


def test_the_detail_is_in_the_quarantine(prepare: Prepare, tmp_path: Path) -> None:
    """Where it is needed."""
    with pytest.raises(DataError):
        prepare([ROWS["no role"]], **ALONE)
    assert json.dumps(WREN) in quarantine(tmp_path / "beside")[0]["detail"]
