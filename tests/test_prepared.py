"""Rows are split, packed and reused as the settings say."""

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import ALONE, Prepare, configure, documents, facts, text, write_rows

from smollm3_ft import data, identity, records, shards, sources
from smollm3_ft.data import Prepared
from smollm3_ft.errors import DataError


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


def test_rows_that_changed_after_they_were_pinned_are_not_kept(tmp_path: Path, tiny: Path) -> None:
    """What is prepared of them is never found under the fingerprint of the rows that they were."""
    settings = configure(data__source=str(write_rows(tmp_path / "rows.jsonl", facts(20)))).data
    pinned, folders = sources.locate(settings, tmp_path), (tmp_path, tmp_path / "beside")
    asked = data.request(pinned, settings, 1, "sft", tiny, "chat", *folders)
    write_rows(tmp_path / "rows.jsonl", facts(21))
    with pytest.raises(DataError, match=r"rows\.jsonl changed after it was pinned"):
        data.prepare(asked)
    assert data.reuse(tmp_path, asked.fingerprint) is None


def test_other_code_is_no_hit(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of every module that makes prepared data is in the fingerprint."""
    settings = configure(data__source="builtin:demo").data
    asked = (sources.locate(settings), settings, 1, "sft", tiny, "chat", tmp_path, tmp_path)
    before = data.request(*asked).fingerprint
    assert data.request(*asked).fingerprint == before
    monkeypatch.setattr(identity, "code", lambda *modules: f"other code of {modules}")
    assert data.request(*asked).fingerprint != before
