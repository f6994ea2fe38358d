"""What becomes of a row: prompts, columns, formats, several sources, and the page that shows it."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from conftest import ALONE, TURNS, Prepare, documents, escaped, facts, quarantine, several, text, write_rows

from smollm3_ft import data
from smollm3_ft.errors import ConfigError, DataError


def test_the_system_prompt_is_for_rows_without_one(prepare: Prepare, tiny: Path) -> None:
    """data.system_prompt goes before a conversation, unless that has its own."""
    prepared = prepare([facts(1)[0], TURNS], system_prompt="Be brief.", packing=False, **ALONE)
    first, second = (text(tiny, document) for document in documents(prepared))
    assert first.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is number 0?")
    assert second.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert "Be brief." not in second


def test_a_system_prompt_is_text(prepare: Prepare) -> None:
    """A system prompt that holds what is no text is refused."""
    with pytest.raises(ConfigError, match=r"data\.system_prompt: the text contains"):
        prepare(facts(9), system_prompt="\ufdd0")


def test_the_settings_of_another_training_are_not_ours(prepare: Prepare, tiny: Path, tmp_path: Path) -> None:
    """A tokenizer's file may carry truncation and padding: rows are neither cut nor padded by it."""
    model = shutil.copytree(tiny, tmp_path / "model")
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=40)
    tokenizer.save(str(model / "tokenizer.json"))
    assert documents(prepare(facts(9), model=model)) == documents(prepare(facts(9)))


def test_half_a_character_anywhere_is_a_bad_row(prepare: Prepare) -> None:
    """A row with half of a character in a column's name or in what is no text is dropped and written down."""
    rows = [*escaped(facts(9)), '{"\\ud83d": 1}', '{"prompt": ["\\ud83d"], "completion": "x"}']
    prepared = prepare(rows, max_bad_rows=0.5, **ALONE)
    assert [line["reason"] for line in quarantine(Path(prepared.folder))] == ["unknown_format", "bad_message"]


def test_nothing_is_put_into_rows_unasked(prepare: Prepare, tiny: Path) -> None:
    """Without data.system_prompt a row has what it had."""
    (document,) = documents(prepare(facts(1), **ALONE))
    assert text(tiny, document) == (
        "<|im_start|>user\nWhat is number 0? <|im_end|>\n<|im_start|>assistant\nIt is alpha 0.<|im_end|>\n"
    )


def test_columns_are_mapped(prepare: Prepare, tiny: Path) -> None:
    """data.columns gives our names to their columns."""
    rows = [{"q": "One?", "a": "It is 1.", "prompt_id": 3}]
    (document,) = documents(prepare(rows, columns={"q": "question", "a": "answer"}, **ALONE))
    assert text(tiny, document, trained=True) == "It is 1.<|im_end|>"


def test_a_format_that_is_set_is_the_only_one(prepare: Prepare) -> None:
    """With data.format set, rows of another format are bad rows."""
    rows = [*facts(9), {"question": "One?", "answer": "1"}]
    prepared = prepare(rows, format="prompt_completion", max_bad_rows=0.1, **ALONE)
    assert prepared.ledger["sources"][0]["dropped"] == {"not_text": 1}


def test_formats_may_mix(prepare: Prepare) -> None:
    """The rows of one source may be of several formats; the commonest is named."""
    rows = [*facts(3), TURNS, {"instruction": "Add 1 and 1", "output": "2"}]
    prepared = prepare(rows, **ALONE)
    assert (prepared.rows["train"], prepared.ledger["sources"][0]["format"]) == (5, "prompt_completion")


def test_every_source_has_its_account(tmp_path: Path, tiny: Path) -> None:
    """A mixture's ledger has an entry a source, each adding up for itself."""
    first, second = tmp_path / "0.jsonl", tmp_path / "1.jsonl"
    prepared = several(tmp_path, tiny, write_rows(first, facts(12)), write_rows(second, [*facts(20)[10:], TURNS]))
    assert [(s["rows"], s["kept"], s["dropped"]) for s in prepared.ledger["sources"]] == [
        (12, 12, {}),
        (11, 9, {"duplicate": 2}),
    ]


def test_one_bad_source_is_enough(tmp_path: Path, tiny: Path) -> None:
    """data.max_bad_rows holds for each source, so that a large good one hides no bad one."""
    good, bad = (
        write_rows(tmp_path / "good.jsonl", facts(50)),
        write_rows(tmp_path / "bad.jsonl", ["{cut", *facts(51)[50:]]),
    )
    with pytest.raises(DataError, match=r"1 of 2 rows of .*bad\.jsonl"):
        several(tmp_path, tiny, good, bad)


def test_the_data_page_shows_rows_and_what_was_dropped(prepare: Prepare) -> None:
    """The page of a prepared folder marks the trained tokens, and escapes what rows say."""
    prepared = prepare([{"prompt": "<script>", "completion": "It is &1."}, {"body": "<b>"}], max_bad_rows=1.0, **ALONE)
    page = (Path(prepared.folder) / "report.html").read_text(encoding="utf-8")
    assert '<mark>It is &amp;1.</mark><mark><b class="special">&lt;|im_end|&gt;</b></mark>' in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "unknown format" in page


def test_a_run_gets_copies(prepare: Prepare, tmp_path: Path) -> None:
    """Ledger, quarantine and page are copied beside the run."""
    prepared = prepare([*escaped(facts(20)), "{cut"])
    data.show(prepared, tmp_path / "run" / "data")
    assert json.loads((tmp_path / "run" / "data" / "ledger.json").read_text())["splits"] == prepared.rows
    assert [line["reason"] for line in quarantine(tmp_path / "run" / "data")] == ["malformed_json"]
    assert (tmp_path / "run" / "data" / "report.html").is_file()
