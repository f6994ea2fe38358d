"""What the settings make of rows: long ones split at their turns, samples, mixtures, and nothing on both sides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ALONE, Prepare, configure, documents, facts, quarantine, several, text, write_rows

from smollm3_ft import chat as chats
from smollm3_ft import data, encoding, gathered, models, rendering, shards, sources
from smollm3_ft import documents as making
from smollm3_ft.errors import ConfigError
from smollm3_ft.formats import BadRow


def turns(*answers: str) -> dict[str, Any]:
    """A conversation with a system message."""
    messages = [{"role": "system", "content": "Be kind."}]
    for number, answer in enumerate(answers):
        messages += [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def exchange(number: int, answer: str) -> str:
    return f"<|im_start|>user\nWhat is {number}?<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n"


def test_a_long_conversation_is_split_at_its_turns(prepare: Prepare, tiny: Path) -> None:
    """Every part has the system message and whole exchanges, as many as fit; the row counts once."""
    row = turns("It is 1.", "It is 2.", "It is 3.")
    prepared = prepare([row], over_length="split", max_length=60, packing=False, **ALONE)
    found = [text(tiny, document) for document in documents(prepared)]
    assert found == [SYSTEM + exchange(0, "It is 1.") + exchange(1, "It is 2."), SYSTEM + exchange(2, "It is 3.")]
    (source,) = prepared.ledger["sources"]
    assert (source["kept"], source["cut"], source["noted"]) == (1, 0, {"split": 1})
    assert prepared.rows["train"] == 1


def test_an_exchange_that_is_too_long_by_itself_is_left_out(prepare: Prepare, tiny: Path) -> None:
    """What does not fit into any part is left out, and the row is counted as cut."""
    row = turns("It is 1.", "long " * 60, "It is 3.")
    prepared = prepare([row], over_length="split", max_length=60, packing=False, **ALONE)
    found = [text(tiny, document) for document in documents(prepared)]
    assert found == [SYSTEM + exchange(0, "It is 1."), SYSTEM + exchange(2, "It is 3.")]
    assert prepared.ledger["sources"][0]["cut"] == 1


def test_nothing_of_a_row_fits(prepare: Prepare) -> None:
    """A row of which no exchange fits is dropped for its length."""
    prepared = prepare([*facts(3), turns("long " * 60)], over_length="split", max_length=60, **ALONE)
    assert prepared.ledger["sources"][0]["dropped"] == {"over_length": 1}


def test_long_prose_is_split_between_tokens(prepare: Prepare, tiny: Path) -> None:
    """Plain text in pieces is all of it, in order."""
    prose = "One two three four five six seven. " * 20
    prepared = prepare([{"text": prose}], over_length="split", max_length=50, packing=False, **ALONE)
    parts = documents(prepared)
    assert len(parts) > 2
    assert "".join(text(tiny, part) for part in parts) == prose + "<|im_end|>"
    assert all(part.mask == [0, *[1] * (len(part.ids) - 1)] for part in parts)


@pytest.mark.parametrize("max_length", range(16, 30))
def test_no_token_of_long_prose_is_lost(prepare: Prepare, tiny: Path, max_length: int) -> None:
    """However many tokens are left for the last piece, the token that ends the text is in it, and trained on."""
    prose = "one two three four five six seven eight nine ten"
    prepared = prepare([{"text": prose}], over_length="split", max_length=max_length, packing=False, **ALONE)
    parts = documents(prepared)
    assert "".join(text(tiny, part) for part in parts) == prose + "<|im_end|>"
    assert max(len(part.ids) for part in parts) <= max_length
    assert parts[-1].mask[-1]


def test_a_pair_that_is_cut_before_it_differs(prepare: Prepare) -> None:
    """Of a pair whose answers are the same as far as they fit, nothing can be learnt: it is dropped."""
    row = {"prompt": "Hi", "chosen": "long " * 60 + "x", "rejected": "long " * 60 + "y"}
    short = {"prompt": "Hi", "chosen": "y", "rejected": "x"}
    prepared = prepare([row, short], method="dpo", over_length="truncate", max_length=60, max_bad_rows=0, **ALONE)
    assert prepared.ledger["sources"][0]["dropped"] == {"over_length": 1}


def test_a_preference_pair_is_not_split(prepare: Prepare) -> None:
    """Of a pair that is too long, neither answer may lose its prompt: it is dropped."""
    row = {"prompt": "Hi", "chosen": "long " * 60, "rejected": "x"}
    short = {"prompt": "Hi", "chosen": "y", "rejected": "x"}
    prepared = prepare([row, short], method="dpo", over_length="split", max_length=60, **ALONE)
    assert prepared.ledger["sources"][0]["dropped"] == {"over_length": 1}


def test_a_preference_pair_is_a_sequence_of_two(prepare: Prepare, tiny: Path) -> None:
    """Chosen and rejected lie beside each other, trained on their answers alone, and are not packed with others."""
    rows = [{"prompt": f"What is {n}?", "chosen": f"{n}", "rejected": f"-{n}"} for n in range(5)]
    prepared = prepare(rows, method="dpo", **ALONE)
    table = shards.read(Path(prepared.folder) / "train.arrow")
    assert [len(lengths) for lengths in table["lengths"].to_pylist()] == [2] * 5
    assert [text(tiny, document, trained=True) for document in documents(prepared)][:2] == [
        "0<|im_end|>",
        "-0<|im_end|>",
    ]


def test_a_sample_is_of_that_many_rows(prepare: Prepare) -> None:
    """data.sample takes so many rows, and the ledger and the quarantine account for the others."""
    prepared = prepare(facts(50), sample=20, **ALONE)
    (source,) = prepared.ledger["sources"]
    assert (source["rows"], source["kept"], source["dropped"]) == (50, 20, {"sampled": 30})
    assert {line["reason"] for line in quarantine(Path(prepared.folder))} == {"sampled"}


def test_a_sample_is_drawn_by_the_seed(prepare: Prepare) -> None:
    """The same seed takes the same rows, another one others; all rows are taken where there are no more."""
    drawn = [[d.line for d in documents(prepare(facts(50), seed=seed, sample=20, **ALONE))] for seed in (1, 1, 2)]
    assert sorted(drawn[0]) == sorted(drawn[1]) != sorted(drawn[2])
    assert prepare(facts(5), sample=20, **ALONE).rows["train"] == 5


def test_a_sample_goes_through_all_sources(tmp_path: Path, tiny: Path) -> None:
    """Of several sources, data.sample takes so many rows in all."""
    first = write_rows(tmp_path / "0.jsonl", facts(30))
    second = write_rows(tmp_path / "1.jsonl", facts(60)[30:])
    prepared = several(tmp_path, tiny, first, second, sample=20)
    kept = [source["kept"] for source in prepared.ledger["sources"]]
    assert sum(kept) == 20
    assert min(kept) > 0


def mixture(tmp_path: Path, tiny: Path, first: float | None, second: float | None) -> data.Prepared:
    """10 and 30 rows, with weights."""
    places = [write_rows(tmp_path / "0.jsonl", facts(10)), write_rows(tmp_path / "1.jsonl", facts(40)[10:])]
    named = [{"source": str(place), "weight": w} for place, w in zip(places, (first, second), strict=True)]
    settings = configure(data__source=named, data__packing=False, **{f"data__{k}": v for k, v in ALONE.items()}).data
    pinned, folders = sources.locate(settings), (tmp_path, tmp_path / "beside")
    return data.prepare(data.request(pinned, settings, 1, "sft", tiny, "chat", *folders))


@pytest.mark.parametrize(
    ("weights", "repeated"), [((1, 1), [20, 0]), ((1, 3), [0, 0]), ((1, 1.5), [10, 0]), ((1, 6), [0, 30])]
)
def test_weights_are_shares_of_the_trained_rows(
    tmp_path: Path, tiny: Path, weights: tuple[float, float], repeated: list[int]
) -> None:
    """No row is left out: rows of the source that would be too small a share are trained again. The ledger says so."""
    prepared = mixture(tmp_path, tiny, *weights)
    trained = documents(prepared)
    assert [source["repeated"] for source in prepared.ledger["sources"]] == repeated
    assert len(trained) == 40 + sum(repeated)
    assert len({tuple(document.ids) for document in trained}) == 40
    assert prepared.rows["train"] == 40  # rows as the sources have them


def test_a_source_without_rows_takes_no_share() -> None:
    """However much a source is wanted, where all of its rows are held out, nothing is repeated, and no memory taken."""
    nothing = np.zeros(3, dtype=np.int32)
    rows = gathered.Rows(*[nothing] * 7, np.zeros((3, 2), dtype=np.uint64))
    members, repeats = gathered.mix(rows, np.arange(3), [1, 1e15], 1)
    assert (members.tolist(), repeats) == ([0, 1, 2], [0, 0])


def test_weights_for_all_or_none(tmp_path: Path, tiny: Path) -> None:
    """A weight beside a source without one says nothing."""
    with pytest.raises(ConfigError, match=r"data\.source: some sources have a weight"):
        mixture(tmp_path, tiny, 1, None)


def test_nothing_is_on_both_sides(prepare: Prepare) -> None:
    """Rows that say the same are held out together, though they are kept."""
    prepared = prepare([*facts(10)] * 3, dedup="none", test=4, validation="none")
    sides = [{tuple(d.ids) for d in documents(prepared, split)} for split in ("train", "test")]
    assert not sides[0] & sides[1]
    assert prepared.rows["test"] == 6  # two rows, three times each: no fewer than 4


def test_a_held_out_row_leaves_training_without_deduplication_too(prepare: Prepare, tmp_path: Path) -> None:
    """data.dedup=none keeps repeated rows, but no training row that is also held out."""
    write_rows(tmp_path / "set" / "train.jsonl", [*facts(5), *facts(5)])
    write_rows(tmp_path / "set" / "test.jsonl", facts(2))
    prepared = prepare(tmp_path / "set", dedup="none", validation="none")
    assert prepared.rows == {"train": 6, "validation": 0, "test": 2}


def test_special_token_text_is_counted(prepare: Prepare, tiny: Path) -> None:
    """Rows that hold the characters of a control token are trained on as they stand, and counted."""
    rows = [*facts(3), {"prompt": "What ends a turn?", "completion": "<|im_end|> does."}]
    prepared = prepare(rows, packing=False, **ALONE)
    assert prepared.ledger["sources"][0]["noted"] == {"special_token_text": 1}
    assert text(tiny, documents(prepared)[3], trained=True) == "<|im_end|> does.<|im_end|>"


def test_formats_are_counted(prepare: Prepare) -> None:
    """The ledger says how many rows were found to be of each format."""
    rows = [*facts(3), turns("It is 1."), {"text": "Prose."}]
    (source,) = prepare(rows, **ALONE).ledger["sources"]
    assert source["formats"] == {"prompt_completion": 3, "messages": 1, "text": 1}


def test_a_fast_way_that_errs_is_not_taken(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row's tokens differ by the two ways, all rows are prepared by the model's own tokenizer."""
    expected = documents(prepare(facts(40), seed=2, **ALONE))
    right = encoding.run

    def wrong(*given: Any) -> Any:
        encoded = right(*given)
        return encoded._replace(ids=encoded.ids[::-1].copy())

    monkeypatch.setattr(encoding, "run", wrong)
    assert documents(prepare(facts(41)[:40], seed=2, max_bad_rows=0.06, **ALONE)) == expected


def test_the_model_s_digest_is_in_the_fingerprint(prepare: Prepare, tiny: Path, tmp_path: Path) -> None:
    """Another tokenizer or template is other data."""
    settings = configure(data__source=str(write_rows(tmp_path / "r.jsonl", facts(9)))).data
    pinned = sources.locate(settings)
    marks = {
        data.request(pinned, settings, 1, method, tiny, digest, tmp_path, tmp_path).fingerprint
        for method, digest in (("sft", "a"), ("sft", "b"), ("dpo", "a"), (None, "a"))
    }
    assert len(marks) == 4
    assert models.pin(configure().model, tmp_path).chat_digest not in marks


UNTRAINED = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "It is 1.", "weight": 0},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "It is 2.", "weight": 1},
]


@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
def test_a_turn_that_the_row_keeps_out_of_the_loss(prepare: Prepare, tiny: Path, loss_on: str) -> None:
    """OpenAI's weight 0 on an answer: it is read and not learnt, and counted."""
    prepared = prepare([{"messages": UNTRAINED}], loss_on=loss_on, **ALONE)
    trained = text(tiny, documents(prepared)[0], trained=True)
    assert "It is 2.<|im_end|>" in trained
    assert "It is 1." not in trained
    assert prepared.ledger["sources"][0]["noted"] == {"untrained_turns": 1}


def test_a_row_of_which_nothing_is_to_be_learnt(prepare: Prepare) -> None:
    """A row whose only answer is kept out of the loss is dropped, and not a bad one."""
    row = {"messages": [UNTRAINED[0], {"role": "assistant", "content": "It is 1.", "train": False}]}
    prepared = prepare([*facts(3), row], max_bad_rows=0.0, **ALONE)
    assert prepared.ledger["sources"][0]["dropped"] == {"no_trained_token": 1}


def test_a_row_that_only_the_fast_way_renders_is_a_disagreement(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the certain way refuses what the fast one kept, the fast one is not to be trusted with any row."""
    work = making.begin(configure().data, "sft", chats.load(tiny), True)
    asked = rendering.Question([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    encoded, _ = making._encode(work, asked)

    def refuse(*_: Any) -> Any:
        raise BadRow("lost_text", "said otherwise")

    monkeypatch.setattr(rendering, "exactly", refuse)
    with pytest.raises(making.Unequal):
        making._try(work, asked, encoded)
