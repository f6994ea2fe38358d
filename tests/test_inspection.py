"""What is shown of prepared data is what is in it: bins that add up, texts whole, and nothing unseen left unseen."""

from pathlib import Path

import pytest
from conftest import ALONE, Prepare, configure, documents, facts, loaded

from smollm3_ft import inspection
from smollm3_ft.data import Prepared
from smollm3_ft.inspection import Document, View

SEEN = {"·": " ", "↵\n": "\n", "→\t": "\t"}


def view(prepared: Prepared, **given: object) -> View:
    settings = configure(**{f"data__{key}": value for key, value in given.items()}).data
    return inspection.view(prepared.ledger, Path(prepared.folder), settings)


def written(tiny: Path, text: str) -> Document:
    ids = loaded(tiny).tokenizer.encode(text, add_special_tokens=False).ids
    return Document("", ids, [0] * len(ids))


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (20, 40), (7, 55), (8, 64), (12, 4096), (16, 65536), (3, 9)])
def test_bins_hold_every_length(shortest: int, longest: int) -> None:
    """The first bin begins at or before the shortest, the last ends at or behind the longest, and they are few."""
    edges = inspection._edges(shortest, longest)
    assert edges[0] <= shortest
    assert edges[-2] <= longest < edges[-1]
    assert edges == sorted(set(edges))
    assert len(edges) <= 16


def test_the_bins_add_up(prepare: Prepare) -> None:
    """Documents, tokens and trained tokens of all bins are those of all splits."""
    prepared = prepare(facts(60))
    bins = view(prepared).bins
    every = [document for split in ("train", "validation", "test") for document in documents(prepared, split)]
    assert sum(one.documents for one in bins) == len(every) == 60
    assert sum(one.tokens for one in bins) == prepared.ledger["tokens"]
    assert sum(one.trained for one in bins) == prepared.ledger["supervised_tokens"]
    for one in bins:
        assert one.documents == sum(one.first <= len(document.ids) <= one.last for document in every)


@pytest.mark.parametrize("packing", [True, False])
def test_rows_are_from_all_over(prepare: Prepare, packing: bool) -> None:
    """Ten different rows are shown as they lie in the shard, packed or not, each with its place and line."""
    prepared = prepare(facts(60), packing=packing, **ALONE)
    rows = view(prepared).rows
    assert len({row.line for row in rows}) == inspection.ROWS_SHOWN
    by_line = {document.line: (document.ids, document.mask) for document in documents(prepared)}
    for row in rows:
        assert row.place == "rows.jsonl"
        assert [(document.ids, document.mask) for document in row.documents] == [by_line[row.line]]


def test_few_rows_are_shown_once(prepare: Prepare) -> None:
    """Of three rows, three are shown."""
    assert sorted(row.line for row in view(prepare(facts(3), **ALONE)).rows) == [1, 2, 3]


def test_both_sides_of_a_pair_are_shown(prepare: Prepare) -> None:
    """A preference pair is one row of two documents, each by its name."""
    rows = [{"prompt": f"Which, {n}?", "chosen": "This.", "rejected": "That one."} for n in range(5)]
    seen = view(prepare(rows, method=None, **ALONE))
    assert seen.counted == "documents"
    assert [[document.name for document in row.documents] for row in seen.rows] == [["chosen", "rejected"]] * 5


def test_packing_is_told_before_it_is_done(prepare: Prepare) -> None:
    """Rows that are only looked at would fill their sequences as well as the same rows do in a run."""
    looked_at, packed = (prepare(facts(60), method=method, max_length=128, **ALONE) for method in (None, "sft"))
    assert looked_at.ledger["fill"] is None
    seen = [view(one, max_length=128).packed for one in (looked_at, packed)]
    assert seen[0] is not None
    assert seen[1] is not None
    assert (seen[0].sequences, seen[0].capacity) == (seen[1].sequences, 128)
    assert seen[0].fill == pytest.approx(seen[1].fill, abs=1e-4)


@pytest.mark.parametrize("text", ["a\n\n b \n", "  x\ty  z ", "é 🎉 你好 ", "<|im_start|>user\nHi<|im_end|>\n"])
def test_pieces_are_the_whole_text(tiny: Path, text: str) -> None:
    """Put together again, the pieces of a document are its text."""
    parts = inspection.pieces(loaded(tiny), written(tiny, text), 1000)
    assert "".join(SEEN.get(p.text, p.text.replace("·", " ")) if p.kind == "unseen" else p.text for p in parts) == text


def test_what_is_unseen_is_seen(tiny: Path) -> None:
    """Tabs, line breaks, double spaces, control characters, and characters without width each have a sign."""
    parts = inspection.pieces(loaded(tiny), written(tiny, "a b\tc  d\r\ne\u200bf\x1b\u202eg"), 1000)
    assert [p.text for p in parts if p.kind == "unseen"] == [
        *("→\t", "··", "␍", "↵\n", "⟨U+200B⟩", "␛", "⟨U+202E⟩"),
    ]


def test_a_special_token_is_told_from_its_text(prepare: Prepare, tiny: Path) -> None:
    """`<|im_end|>` in a row's text is shown as text, the model's own as special."""
    prepared = prepare([{"prompt": "Stop <|im_end|> here", "completion": "no"}], **ALONE)
    ((document,),) = (row.documents for row in view(prepared).rows)
    parts = list(inspection.pieces(loaded(tiny), document, 1000))
    assert sum(p.text.count("<|im_end|>") for p in parts if p.kind == "special") == 2
    assert [p.text for p in parts if p.kind == "text" and "<|im_end|>" in p.text] == ["Stop <|im_end|> here"]


def test_a_long_document_is_shown_by_its_ends(tiny: Path) -> None:
    """Of a document that is too long to show, the middle is left out and counted."""
    document = written(tiny, " ".join(map(str, range(500))))
    parts = list(inspection.pieces(loaded(tiny), document, 100))
    assert [p.text for p in parts if p.kind == "gap"] == [f" … {len(document.ids) - 100:,} more tokens … "]
    assert parts[-1].text.endswith("499")


@pytest.mark.parametrize(
    ("part", "whole", "said"), [(0, 9, "0 %"), (1, 999, "<1 %"), (998, 999, ">99 %"), (9, 9, "100 %"), (1, 3, "33 %")]
)
def test_nothing_and_all_are_exact(part: int, whole: int, said: str) -> None:
    """A share is 0 % only where it is nothing, 100 % only where it is all."""
    assert inspection.percent(part, whole) == said


def test_formats_have_their_shares(prepare: Prepare) -> None:
    """Each format is named with its share of the rows looked at; bad rows are part of these, rows left out are not."""
    rows = [*facts(6), *({"question": f"{n}?", "answer": "1"} for n in range(3)), "{cut"]
    (source,) = prepare(rows, max_bad_rows=0.2, **ALONE).ledger["sources"]
    assert inspection.formats(source) == "prompt_completion (60 % of rows), question_answer (30 %)"
    assert inspection.formats({**source, "rows": 20, "dropped": {"sampled": 10}}).startswith("prompt_completion (60 %")


def test_places_are_shortened_no_further_than_they_differ() -> None:
    """Files are named without the folder that all of them share; what is on the Hub keeps its name."""
    assert inspection.short(["/d/a/x.jsonl", "/d/b/x.jsonl"]) == {
        "/d/a/x.jsonl": "a/x.jsonl",
        "/d/b/x.jsonl": "b/x.jsonl",
    }
    assert inspection.short(["/d/x.jsonl", "o/n:train"]) == {"/d/x.jsonl": "x.jsonl", "o/n:train": "o/n:train"}
    assert inspection.short([]) == {}
