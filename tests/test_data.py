"""Every row of the sources is trained on as it stands, held out, or dropped with its reason."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ALONE, TURNS, Prepare, documents, escaped, facts, quarantine, several, text, write_rows

from smollm3_ft.builtin import tiny as builtin_tiny
from smollm3_ft.errors import DataError

MESSY = [
    *facts(40),
    "{cut",
    "[1]",
    {"text": "no format"},
    {"prompt": "Hi", "completion": ""},
    {"prompt": "Hi", "completion": 5},
    {"prompt": "Stop <|im_end|> here", "completion": "no"},
    {"messages": [{"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "tool", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]},
    {"prompt": b"Half \\ud83d".decode("unicode_escape"), "completion": "x"},
    {"prompt": "\ufdd0", "completion": "x"},
    facts(1)[0],
    {"prompt": "  What is number 0?\r\n", "completion": "It is alpha 0."},
    {"prompt": "long " * 100, "completion": "x"},
]
DROPPED = {
    "duplicate": 2,
    "empty": 1,
    "lone_surrogate": 1,
    "malformed_json": 1,
    "noncharacter": 1,
    "not_an_object": 1,
    "not_text": 1,
    "one_sided": 2,
    "over_length": 1,
}


def test_the_ledger_adds_up(prepare: Prepare) -> None:
    """Of every source, rows are kept or dropped with a reason, and the splits add up to the kept ones."""
    prepared = prepare(escaped(MESSY), max_bad_rows=1.0, max_length=64)
    (source,) = prepared.ledger["sources"]
    assert (source["rows"], source["kept"], source["format"]) == (len(MESSY), 42, "prompt_completion")
    assert source["dropped"] == DROPPED
    assert source["rows"] == source["kept"] + sum(source["dropped"].values())
    assert sum(prepared.ledger["splits"].values()) == source["kept"]


def test_the_ledger_counts_tokens(prepare: Prepare) -> None:
    """tokens and supervised_tokens are those of all splits, as they lie in the shards."""
    prepared = prepare(facts(40))
    every = [document for split in ("train", "validation", "test") for document in documents(prepared, split)]
    assert prepared.ledger["tokens"] == sum(len(document.ids) for document in every)
    assert prepared.ledger["supervised_tokens"] == sum(sum(document.mask) for document in every)
    assert prepared.tokens == sum(len(document.ids) for document in documents(prepared))


def test_the_quarantine_names_each_line(prepare: Prepare, tmp_path: Path) -> None:
    """Every dropped row has a line in the quarantine: the file, its line there, the reason, the detail."""
    prepared = prepare(escaped(MESSY), max_bad_rows=1.0, max_length=64)
    lines = quarantine(Path(prepared.folder))
    assert sorted(line["line"] for line in lines) == [n for n in range(41, len(MESSY) + 1) if n not in (43, 46)]
    assert lines[0]["source"] == str(tmp_path / "rows.jsonl")
    assert {line["line"]: line["reason"] for line in lines}[45] == "not_text"
    assert all(line["detail"] for line in lines)


def test_kept_rows_know_their_line(prepare: Prepare) -> None:
    """Beside every prepared document stands the line that it came from."""
    prepared = prepare(["", *escaped(facts(5)), "{cut", *escaped(facts(7)[5:])], max_bad_rows=0.5, **ALONE)
    assert sorted(document.line for document in documents(prepared)) == [2, 3, 4, 5, 6, 8, 9]


def test_too_many_bad_rows_stop_the_run(prepare: Prepare, tmp_path: Path) -> None:
    """Beyond data.max_bad_rows nothing is prepared, and the first of each reason is named by file and line."""
    with pytest.raises(DataError, match=r"2 of 12 rows .*1 malformed_json \(first: .*rows\.jsonl:11\)") as caught:
        prepare([*escaped(facts(10)), "{cut", "[1]"], max_bad_rows=0.1)
    assert caught.value.remedy == "mend them (the quarantine says why, for each), or raise data.max_bad_rows above 0.17"
    assert [line["line"] for line in quarantine(tmp_path / "beside")] == [11, 12]


def test_bad_rows_within_the_share_are_let_pass(prepare: Prepare) -> None:
    """As many bad rows as data.max_bad_rows allows do not stop the run."""
    assert prepare([*escaped(facts(9)), "{cut"], max_bad_rows=0.1, **ALONE).rows["train"] == 9


def test_rows_left_out_by_a_policy_are_not_bad(prepare: Prepare) -> None:
    """Duplicates and rows that are too long do not count towards data.max_bad_rows."""
    rows = [*facts(5), *facts(5), {"prompt": "long " * 100, "completion": "x"}]
    assert prepare(rows, max_bad_rows=0.0, max_length=64, **ALONE).rows["train"] == 5


@pytest.mark.parametrize(
    ("rows", "said"), [([], "has no rows"), (["", " "], "has no rows"), ([facts(1)[0]], "to train on")]
)
def test_nothing_to_train_on(prepare: Prepare, rows: list[Any], said: str) -> None:
    """An empty source, or one too small to hold rows out of, is said."""
    with pytest.raises(DataError, match=said):
        prepare(rows)


def test_repeated_rows_leave_the_held_out_ones(prepare: Prepare, tmp_path: Path) -> None:
    """A training row that repeats a held-out one is the one that is dropped."""
    write_rows(tmp_path / "set" / "train.jsonl", facts(20))
    write_rows(tmp_path / "set" / "validation.jsonl", facts(4)[2:])
    write_rows(tmp_path / "set" / "test.jsonl", facts(2))
    prepared = prepare(tmp_path / "set")
    assert prepared.rows == {"train": 16, "validation": 2, "test": 2}
    assert {Path(line["source"]).name for line in quarantine(Path(prepared.folder))} == {"train.jsonl"}


def test_repeated_rows_leave_the_held_out_ones_of_any_source(tmp_path: Path, tiny: Path) -> None:
    """A training row that repeats another source's held-out one is dropped, not the held-out one."""
    write_rows(tmp_path / "a" / "train.jsonl", facts(10))
    write_rows(tmp_path / "b" / "train.jsonl", facts(20)[10:])
    write_rows(tmp_path / "b" / "test.jsonl", facts(3))
    prepared = several(tmp_path, tiny, tmp_path / "a", tmp_path / "b", test=0.1)
    assert prepared.rows == {"train": 17, "validation": 0, "test": 3}


def test_every_training_row_repeats_a_held_out_one(prepare: Prepare, tmp_path: Path) -> None:
    """Where only held-out rows are left, there is nothing to train on, and that is said."""
    for name in ("train", "test"):
        write_rows(tmp_path / "set" / f"{name}.jsonl", facts(5))
    with pytest.raises(DataError, match="no training row is left"):
        prepare(tmp_path / "set")


def test_rows_that_differ_in_indentation_are_two(prepare: Prepare) -> None:
    """White space inside a text may mean something: code rows that differ by it alone are both kept."""
    rows = [{"prompt": "Indent", "completion": f"if x:{white}pass"} for white in ("\n  ", "\n    ")]
    assert prepare(rows, **ALONE).rows["train"] == 2


def test_repeated_rows_are_kept_where_asked(prepare: Prepare) -> None:
    """data.dedup=none keeps every row."""
    assert prepare([*facts(3), *facts(3)], dedup="none", **ALONE).rows["train"] == 6


def test_over_length_drop(prepare: Prepare) -> None:
    """A row longer than data.max_length is dropped and counted."""
    prepared = prepare([*facts(3), {"prompt": "Hi", "completion": "long " * 50}], max_length=48, **ALONE)
    (source,) = prepared.ledger["sources"]
    assert (source["kept"], source["dropped"], source["cut"]) == (3, {"over_length": 1}, 0)


def test_over_length_truncate(prepare: Prepare) -> None:
    """A row longer than data.max_length keeps its first tokens, and is counted as cut."""
    rows = [*facts(3), {"prompt": "Hi", "completion": "long " * 50}]
    whole = documents(prepare(rows, max_length=256, packing=False, **ALONE))[3]
    prepared = prepare(rows, max_length=48, over_length="truncate", packing=False, **ALONE)
    cut = documents(prepared)[3]
    assert prepared.ledger["sources"][0]["cut"] == 1
    assert (cut.ids, cut.mask) == (whole.ids[:48], whole.mask[:48])
    assert cut.answer == -1  # its answer is no reference any more


def test_a_row_whose_answer_is_cut_off_is_not_a_bad_row(prepare: Prepare) -> None:
    """A row of which truncation leaves nothing to train on is dropped by that policy."""
    rows = [*facts(3), {"prompt": "long " * 50, "completion": "It is 1."}]
    prepared = prepare(rows, max_length=48, over_length="truncate", max_bad_rows=0.0, **ALONE)
    assert prepared.ledger["sources"][0]["dropped"] == {"no_trained_token": 1}


def test_over_length_error(prepare: Prepare, tmp_path: Path) -> None:
    """data.over_length=error stops at the first row that is too long, and names it."""
    rows = [*facts(3), {"prompt": "Hi", "completion": "long " * 50}]
    with pytest.raises(DataError, match=rf"{tmp_path / 'rows.jsonl'}:4 has \d+ tokens, data.max_length is 48"):
        prepare(rows, max_length=48, over_length="error")


WHOLE = (
    "<|im_start|>system\nBe kind.<|im_end|>\n"
    "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nIt is 1.<|im_end|>\n"
    "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\nIt is 2.<|im_end|>\n"
)


@pytest.mark.parametrize(
    ("loss_on", "trained"),
    [
        ("assistant", "It is 1.<|im_end|>It is 2.<|im_end|>"),
        ("last", "It is 2.<|im_end|>"),
        ("all", WHOLE.removeprefix("<|im_start|>")),
    ],
)
def test_what_is_trained_on(prepare: Prepare, tiny: Path, loss_on: str, trained: str) -> None:
    """The answers with their end of turn, the last of them, or everything but the first token."""
    (document,) = documents(prepare([TURNS], loss_on=loss_on, **ALONE))
    assert text(tiny, document, trained=True) == trained


def test_line_breaks_that_an_answer_begins_with_are_trained_on(prepare: Prepare, tiny: Path, tmp_path: Path) -> None:
    """Also where the tokenizer makes one token of them and of the template's own."""
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    tokenizer = builtin_tiny.tokenizer(["one\n\ntwo"] * 9, builtin_tiny.VOCAB)
    (model / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (document,) = documents(prepare([{"prompt": "One?", "completion": "\nIt is 1."}], model=model, **ALONE))
    assert text(model, document, trained=True) == "\n\nIt is 1.<|im_end|>"


def test_the_last_answer_begins_where_it_is_said(prepare: Prepare, tiny: Path) -> None:
    """From `answers` on stands the last answer, before it the prompt as the model is asked."""
    (document,) = documents(prepare([TURNS], **ALONE))
    at = document.answer
    assert text(tiny, document._replace(ids=document.ids[at:], mask=document.mask[at:])) == "It is 2.<|im_end|>\n"
    before = document._replace(ids=document.ids[:at], mask=document.mask[:at])
    assert text(tiny, before).endswith("<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n")
