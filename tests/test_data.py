"""Every row of the sources is trained on as it stands, held out, or dropped with its reason."""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from conftest import Document, Prepare, configure, documents, facts, write_rows

from smollm3_ft import chat as chats
from smollm3_ft import data, records, shards, sources
from smollm3_ft.data import Prepared
from smollm3_ft.errors import ConfigError, DataError

ALONE = {"validation": "none", "test": "none"}
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
    "over_length": 1,
    "roles_out_of_order": 1,
    "special_token_text": 1,
    "unknown_format": 1,
    "unknown_role": 1,
}


def escaped(rows: list[Any]) -> list[str]:
    """Rows as lines whose characters are all ASCII, so that half a character can be written."""
    return [row if isinstance(row, str) else json.dumps(row) for row in rows]


def quarantine(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]


loaded = functools.cache(chats.load)


def text(tiny: Path, document: Document, trained: bool = False) -> str:
    """What a document says, or the part of it that is trained on."""
    ids = [token for token, mask in zip(document.ids, document.mask, strict=True) if mask or not trained]
    return loaded(tiny).tokenizer.decode(ids, skip_special_tokens=False)


def test_the_ledger_adds_up(prepare: Prepare) -> None:
    """Of every source, rows are kept or dropped with a reason, and the splits add up to the kept ones."""
    prepared = prepare(escaped(MESSY), max_bad_rows=1.0, max_length=64)
    (source,) = prepared.ledger["sources"]
    assert (source["rows"], source["kept"], source["format"]) == (len(MESSY), 40, "prompt_completion")
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
    assert sorted(line["line"] for line in lines) == list(range(41, len(MESSY) + 1))
    assert lines[0]["source"] == str(tmp_path / "rows.jsonl")
    assert {line["line"]: line["reason"] for line in lines}[46] == "special_token_text"
    assert all(line["detail"] for line in lines)


def test_kept_rows_know_their_line(prepare: Prepare) -> None:
    """Beside every prepared document stands the line that it came from."""
    prepared = prepare(["", *escaped(facts(5)), "{cut", *escaped(facts(7)[5:])], max_bad_rows=0.5, **ALONE)
    assert sorted(document.line for document in documents(prepared)) == [2, 3, 4, 5, 6, 8, 9]


def test_too_many_bad_rows_stop_the_run(prepare: Prepare, tmp_path: Path) -> None:
    """Beyond data.max_bad_rows nothing is prepared, and the first of each reason is named by file and line."""
    with pytest.raises(DataError, match=r"2 of 12 rows .*1 malformed_json \(first: .*rows\.jsonl:11\)") as caught:
        prepare([*escaped(facts(10)), "{cut", "[1]"], max_bad_rows=0.1)
    assert caught.value.remedy == "mend them, or raise data.max_bad_rows above 0.17"
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


TURNS = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "It is 1."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "It is 2."},
    ]
}

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


def test_the_last_answer_begins_where_it_is_said(prepare: Prepare, tiny: Path) -> None:
    """From `answers` on stands the last answer, before it the prompt as the model is asked."""
    (document,) = documents(prepare([TURNS], **ALONE))
    at = document.answer
    assert text(tiny, document._replace(ids=document.ids[at:], mask=document.mask[at:])) == "It is 2.<|im_end|>\n"
    before = document._replace(ids=document.ids[:at], mask=document.mask[:at])
    assert text(tiny, before).endswith("<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n")


def split_of(prepared: Prepared, tiny: Path) -> dict[str, str]:
    """The split of each row, by what the row says."""
    return {
        text(tiny, document): split
        for split in ("train", "validation", "test")
        for document in documents(prepared, split)
    }


def test_added_rows_move_no_other(prepare: Prepare, tiny: Path) -> None:
    """With shares, a row stays in its split when other rows are added, wherever they stand."""
    before = split_of(prepare(facts(200)[60:], validation=0.2, test=0.2), tiny)
    after = split_of(prepare(facts(200), validation=0.2, test=0.2), tiny)
    assert set(before.values()) == {"train", "validation", "test"}
    assert {row: after[row] for row in before} == before


def test_another_seed_splits_otherwise(prepare: Prepare, tiny: Path) -> None:
    """The split is drawn from the seed."""
    drawn = [split_of(prepare(facts(100), seed=seed, validation=0.2, test=0.2), tiny) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_share_gives_at_least_a_row(prepare: Prepare) -> None:
    """However small the share, a row is held out."""
    assert prepare(facts(10), validation=1e-6, test=1e-6).rows == {"train": 8, "validation": 1, "test": 1}


def test_rows_held_out(prepare: Prepare) -> None:
    """A number holds out exactly as many rows."""
    assert prepare(facts(20), validation=3, test=5).rows == {"train": 12, "validation": 3, "test": 5}


def test_too_many_rows_held_out(prepare: Prepare) -> None:
    """Held-out rows that leave nothing to train on are refused."""
    with pytest.raises(DataError, match=r"data\.test=20 leaves none of 20 rows to train on"):
        prepare(facts(20), test=20)


def test_nothing_held_out(prepare: Prepare) -> None:
    """none holds nothing out of a file."""
    assert prepare(facts(20), **ALONE).rows == {"train": 20, "validation": 0, "test": 0}


def test_given_splits_are_kept(prepare: Prepare, tmp_path: Path, tiny: Path) -> None:
    """Held-out files are the held-out rows, and nothing is drawn from the training rows."""
    write_rows(tmp_path / "set" / "train.jsonl", facts(20)[:14])
    write_rows(tmp_path / "set" / "validation.jsonl", facts(17)[14:])
    write_rows(tmp_path / "set" / "test.jsonl", facts(20)[17:])
    prepared = prepare(tmp_path / "set", validation=0.5, test=0.5)
    assert prepared.rows == {"train": 14, "validation": 3, "test": 3}
    assert [document.line for document in documents(prepared, "test")] == [1, 2, 3]


def test_a_split_that_is_named_must_be_there(prepare: Prepare) -> None:
    """A split's name that no source has is refused."""
    with pytest.raises(DataError, match=r"no source has a split dev.*data\.validation"):
        prepare(facts(20), validation="dev")


def test_packing_loses_and_repeats_nothing(prepare: Prepare) -> None:
    """Packed sequences hold every document once, with its tokens and mask, and never exceed data.max_length."""
    alone = documents(prepare(facts(60), packing=False, max_length=80, **ALONE))
    prepared = prepare(facts(60), packing=True, max_length=80, **ALONE)
    assert sorted(documents(prepared)) == sorted(alone)
    sequences = shards.read(Path(prepared.folder) / "train.arrow").to_pylist()
    assert len(sequences) == prepared.sequences < 60
    assert max(len(sequence["input_ids"]) for sequence in sequences) == prepared.longest <= 80


def test_held_out_rows_are_not_packed(prepare: Prepare) -> None:
    """A held-out row is a sequence of its own."""
    prepared = prepare(facts(60), test=9)
    lengths = shards.read(Path(prepared.folder) / "test.arrow")["lengths"].to_pylist()
    assert [len(length) for length in lengths] == [1] * 9


def test_a_second_time_is_reuse(prepare: Prepare) -> None:
    """The same data with the same settings is prepared once."""
    first = prepare(facts(20))
    before = (Path(first.folder) / records.RECORD).stat()
    assert prepare(facts(20)) == first
    after = (Path(first.folder) / records.RECORD).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_moved_folder_of_runs_is_a_hit(prepare: Prepare, tmp_path: Path) -> None:
    """Prepared data is found where it is now, not where it was made."""
    first = prepare(facts(20))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".prepared").rename(tmp_path / "elsewhere" / ".prepared")
    again = data.reuse(tmp_path / "elsewhere", first.fingerprint)
    assert again == first.model_copy(update={"folder": str(tmp_path / "elsewhere" / ".prepared" / first.fingerprint)})


@pytest.mark.parametrize("name", ["train.arrow", "ledger.json", "quarantine.jsonl", records.RECORD])
def test_a_missing_file_is_no_hit(prepare: Prepare, tmp_path: Path, name: str) -> None:
    """Prepared data with a file gone is made again."""
    first = prepare(facts(20))
    (Path(first.folder) / name).unlink()
    assert data.reuse(tmp_path, first.fingerprint) is None
    assert prepare(facts(20)) == first
    assert (Path(first.folder) / name).is_file()


def test_an_altered_file_is_no_hit(prepare: Prepare, tmp_path: Path) -> None:
    """Prepared data with a byte changed is made again, though the size is the same."""
    first = prepare(facts(20))
    shard = Path(first.folder) / "train.arrow"
    good = shard.read_bytes()
    shard.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    assert data.reuse(tmp_path, first.fingerprint) is None
    prepare(facts(20))
    assert shard.read_bytes() == good


def test_a_touched_file_is_a_hit(prepare: Prepare, tmp_path: Path) -> None:
    """Another time on the same content, as a copy has, changes nothing."""
    first = prepare(facts(20))
    os.utime(Path(first.folder) / "train.arrow", (1, 1))
    assert data.reuse(tmp_path, first.fingerprint) == first


@pytest.mark.parametrize(
    "given", [{"max_length": 100}, {"loss_on": "all"}, {"max_bad_rows": 0}, {"seed": 2}, {"test": 3}]
)
def test_another_setting_is_no_hit(prepare: Prepare, given: dict[str, Any]) -> None:
    """What changes the prepared data changes its fingerprint."""
    assert prepare(facts(20), **given).fingerprint != prepare(facts(20)).fingerprint


def test_another_row_is_no_hit(prepare: Prepare) -> None:
    """A changed source has another fingerprint."""
    assert prepare(facts(20)).fingerprint != prepare(facts(21)).fingerprint


def test_the_system_prompt_is_for_rows_without_one(prepare: Prepare, tiny: Path) -> None:
    """data.system_prompt goes before a conversation, unless that has its own."""
    prepared = prepare([facts(1)[0], TURNS], system_prompt="Be brief.", packing=False, **ALONE)
    first, second = (text(tiny, document) for document in documents(prepared))
    assert first.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is number 0?")
    assert second.startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert "Be brief." not in second


@pytest.mark.parametrize("prompt", ["Stop <|im_end|>", "\ufdd0"])
def test_a_system_prompt_is_text(prepare: Prepare, prompt: str) -> None:
    """A system prompt that would become control tokens is refused."""
    with pytest.raises(ConfigError, match=r"data\.system_prompt: the text contains"):
        prepare(facts(9), system_prompt=prompt)


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
    assert [line["reason"] for line in quarantine(Path(prepared.folder))] == ["unknown_format", "not_text"]


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


def several(tmp_path: Path, tiny: Path, *places: Path, **given: Any) -> Prepared:
    """Prepare a list of sources."""
    named = [{"source": str(place)} for place in places]
    settings = configure(**{f"data__{key}": value for key, value in {"source": named, **ALONE, **given}.items()}).data
    return data.prepare(sources.locate(settings), settings, 1, tiny, tmp_path, "mark", tmp_path / "beside")


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
    prepared = prepare([{"prompt": "<script>", "completion": "It is &1."}, {"text": "<b>"}], max_bad_rows=1.0, **ALONE)
    page = (Path(prepared.folder) / "report.html").read_text(encoding="utf-8")
    assert "It is &amp;1.&lt;|im_end|&gt;" in page
    assert "&lt;script&gt;" in page
    assert "unknown_format" in page


def test_a_run_gets_copies(prepare: Prepare, tmp_path: Path) -> None:
    """Ledger, quarantine and page are copied beside the run."""
    prepared = prepare([*escaped(facts(20)), "{cut"])
    data.show(prepared, tmp_path / "run" / "data")
    assert json.loads((tmp_path / "run" / "data" / "ledger.json").read_text())["splits"] == prepared.rows
    assert [line["reason"] for line in quarantine(tmp_path / "run" / "data")] == ["malformed_json"]
    assert (tmp_path / "run" / "data" / "report.html").is_file()
