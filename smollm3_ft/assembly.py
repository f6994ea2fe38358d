"""Blocks of rows through the workers, and then what needs all rows at once: duplicates, splits, packing, the ledger."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from smollm3_ft import (
    datapage,
    documents,
    files,
    gathered,
    leaking,
    ledger,
    packing,
    preparing,
    reading,
    shards,
    sources,
    workers,
)
from smollm3_ft.config import Data
from smollm3_ft.conversations import Note
from smollm3_ft.formats import FORMATS, BadRow
from smollm3_ft.gathered import HELD_OUT, SPLITS, Indices, Rows
from smollm3_ft.leaks import Leak
from smollm3_ft.preparing import Done, Task
from smollm3_ft.sources import SourcePlan

SECONDS_BETWEEN_LINES = 10
log = logging.getLogger(__name__)


class Request(BaseModel):
    """What is to be prepared, and for what: `method` is None where rows are judged by their format alone."""

    model_config = ConfigDict(frozen=True)

    sources: tuple[SourcePlan, ...]
    data: Data
    seed: int
    method: str | None
    model: str  # a folder with a tokenizer and a chat template
    runs_dir: str
    fingerprint: str
    beside: str  # a folder that gets the quarantine where preparation fails

    @property
    def folder(self) -> Path:
        return Path(self.runs_dir) / ".prepared" / self.fingerprint


def assemble(
    asked: Request,
    work: documents.Work,
    cores: int,
    accounts: list[ledger.Account],
    store: shards.Documents,
    dropped: IO[str],
    partial: Path,
) -> dict[str, Any]:
    """Every block of every source through the workers, then everything that needs all rows at once.

    Returns what is known of the prepared data: rows a split, sequences and tokens of the training split, the ledger.
    """
    places: list[str] = []
    done: list[tuple[Done, int]] = []
    lengths, answers = [], []
    function = functools.partial(preparing.prepare, work, asked.sources)
    last_line = time.monotonic()
    for one in workers.ordered(function, _tasks(asked), cores):
        account = accounts[one.task.source]
        account.rows += one.rows
        account.formats += one.formats
        place = one.task.block.place
        for line, bad in one.dropped:
            account.drop(bad, place, line, dropped)
        store.add(one.ids, one.mask)
        lengths.append(one.lengths)
        answers.append(one.answers)
        if not places or places[-1] != place:
            places.append(place)
        done.append((preparing.without_tokens(one), len(places) - 1))
        if time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            log.info(f"{sum(account.rows for account in accounts):,} rows read")
    if not done:
        ledger.check(accounts, asked.data.max_bad_rows)
    store.flush()
    rows = gathered.gather(done)
    kept, exact = _account(rows, asked.data, accounts, places, dropped)
    if not len(kept):
        files.write_json(partial / "ledger.json", ledger.of_nothing(accounts))
    ledger.check(accounts, asked.data.max_bad_rows)
    facts = shards.Facts(
        np.concatenate(lengths),
        np.concatenate(answers),
        np.repeat(rows.place, rows.parts),
        np.repeat(rows.line, rows.parts),
    )
    members = gathered.split(rows, kept, asked.data, asked.seed)
    near = leaking.near(store, facts, rows, members, asked.seed)
    if asked.data.exclude_leaks and near:
        leaking.exclude(near, rows, members, accounts, places, dropped)
    dropped.flush()
    leaked = leaking.entry(exact, near, rows, members, places, asked.data.exclude_leaks)
    return _write(asked, work, rows, members, accounts, store, facts, places, partial, leaked)


def _tasks(asked: Request) -> Iterator[Task]:
    """Every block. Held-out rows of every source come first, so that a repeated row is dropped from training."""
    chosen = _sample(asked)
    for split in (*HELD_OUT, "train"):
        at = 0
        for index, source in enumerate(asked.sources):
            for block in sources.blocks(source, split):
                if chosen is None or split != "train":
                    yield Task(block, index, SPLITS.index(split), None)
                    continue
                count = reading.count(block)
                first, last = np.searchsorted(chosen, (at, at + count))
                yield Task(block, index, SPLITS.index(split), chosen[first:last] - at)
                at += count


def _sample(asked: Request) -> Indices | None:
    """The training rows that `data.sample` takes, numbered through all sources, sorted; None for all of them."""
    if asked.data.sample is None:
        return None
    total = sum(sources.count(source, "train") for source in asked.sources)
    taken = np.random.default_rng(asked.seed).choice(total, min(asked.data.sample, total), replace=False)
    return np.sort(taken).astype(np.int64)


def _account(
    rows: Rows, data: Data, accounts: list[ledger.Account], places: list[str], dropped: IO[str]
) -> tuple[Indices, list[Leak]]:
    """Enter every usable row in the ledger, as kept or as a duplicate. Returns the kept ones, and of the others those
    of training that repeat a held-out one."""
    first = gathered.duplicates(rows, data.dedup)
    leaks = []
    for index in np.flatnonzero(first >= 0):
        other = first[index]
        again = BadRow("duplicate", f"says the same as {places[rows.place[other]]}:{rows.line[other]}")
        accounts[rows.source[index]].drop(again, places[rows.place[index]], int(rows.line[index]), dropped)
        if rows.split[index] == 0 and rows.split[other] != 0:
            leaks.append(Leak(int(index), int(other), 1.0))
    kept = np.flatnonzero(first < 0)
    for source, account in enumerate(accounts):
        notes = rows.notes[kept][rows.source[kept] == source]
        account.kept = len(notes)
        for note in Note:
            account.noted[str(note.name).lower()] = int(np.count_nonzero(notes & note))
    return kept, leaks


def _write(
    asked: Request,
    work: documents.Work,
    rows: Rows,
    members: dict[str, Indices],
    accounts: list[ledger.Account],
    store: shards.Documents,
    facts: shards.Facts,
    places: list[str],
    partial: Path,
    leaked: dict[str, Any],
) -> dict[str, Any]:
    """Write the shards, the ledger and the data page."""
    data = asked.data
    weights = [source.weight for source in asked.sources]
    train, repeats = gathered.mix(rows, members["train"], weights, asked.seed)
    for account, repeated in zip(accounts, repeats, strict=True):
        account.repeated = repeated
    packs = data.packing and asked.method == "sft"
    sequences = _sequences(asked, rows, train)
    if packs:
        packed = packing.pack(facts.lengths[sequences.order].astype(np.int64), data.max_length)
        sequences = packing.Sequences(sequences.order[packed.order], packed.ends)
    counts = {"train": store.write_shard(partial / "train.arrow", sequences, facts)}
    for split in HELD_OUT:
        counts[split] = store.write_shard(partial / f"{split}.arrow", _sequences(asked, rows, members[split]), facts)
    tokens, supervised = counts["train"]
    longest = np.add.reduceat(facts.lengths[sequences.order], np.concatenate([[0], sequences.ends[:-1]])).max()
    book = {
        "sources": [account.entry() for account in accounts],
        "splits": {split: len(members[split]) for split in SPLITS},
        "tokens": sum(tokens for tokens, _ in counts.values()),
        "supervised_tokens": sum(trained for _, trained in counts.values()),
        "sequences": len(sequences),
        "leaks": leaked,
        "fill": round(tokens / (len(sequences) * data.max_length), 4) if packs else None,
    }
    files.write_json(partial / "ledger.json", book)
    files.write_json(partial / "places.json", {"places": places})
    files.write_json(partial / "origins.json", _origins(asked, rows, members["test"]))
    files.write(partial / "report.html", datapage.page(book, partial, data, work.chat))
    return {
        "rows": book["splits"],
        "sequences": len(sequences),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "longest": int(longest),
        "ledger": book,
    }


def _origins(asked: Request, rows: Rows, members: Indices) -> dict[str, Any]:
    """The source and the format of each sequence of a split that is not packed: figures are told by them."""
    members = np.repeat(members, rows.parts[members]) if asked.method == "sft" else members
    names = [source.source for source in asked.sources], list(FORMATS)
    return {
        "source": [names[0][number] for number in rows.source[members]],
        "format": [names[1][number] for number in rows.format[members]],
    }


def _sequences(asked: Request, rows: Rows, members: Indices) -> packing.Sequences:
    """Documents before packing: each by itself, or together with those of its row where a method compares them."""
    of_rows = gathered.sequences(rows, members)
    return packing.alone(of_rows.order) if asked.method == "sft" else of_rows
