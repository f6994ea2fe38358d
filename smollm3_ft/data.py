"""Sources → Prepared: each row read, accounted for, rendered, tokenized, masked, split and packed, once.

The result lies in `.prepared/<fingerprint>/` and is reused by every run whose data, tokenizer, template and settings
are the same. Memory grows with the number of rows only by a few numbers a row. `python -m smollm3_ft.data REQUEST` is
the process that prepares for a run.
"""

from __future__ import annotations

import functools
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from smollm3_ft import (
    chat,
    datapage,
    files,
    gathered,
    identity,
    ledger,
    locks,
    packing,
    preparing,
    processes,
    reading,
    records,
    shards,
    sources,
    workers,
)
from smollm3_ft.config import Data
from smollm3_ft.conversations import Note
from smollm3_ft.errors import DataError
from smollm3_ft.formats import BadRow
from smollm3_ft.gathered import HELD_OUT, SPLITS, Indices, Rows
from smollm3_ft.preparing import Done, Task
from smollm3_ft.sources import SourcePlan

MODULES = (
    *(
        "chat",
        "conversations",
        "csvfile",
        "data",
        "datapage",
        "encoding",
        "formats",
        "gathered",
        "inspection",
        "ledger",
    ),
    *("packing", "pages", "preparing", "reading", "rendering", "shards", "sources", "strictjson", "tables", "turns"),
)
SECONDS_BETWEEN_LINES = 10
log = logging.getLogger(__name__)


class Prepared(BaseModel):
    """Where prepared data lies and what it amounts to: rows a split; sequences and tokens of the training split."""

    model_config = ConfigDict(frozen=True)

    folder: str
    fingerprint: str
    rows: dict[str, int]
    sequences: int
    tokens: int
    supervised_tokens: int
    longest: int
    ledger: dict[str, Any]


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


def request(
    pinned: tuple[SourcePlan, ...],
    data: Data,
    seed: int,
    method: str | None,
    model: Path,
    chat_digest: str,
    runs_dir: Path,
    beside: Path,
) -> Request:
    """The request for prepared data, with the fingerprint of everything that it depends on."""
    kept = {key: value for key, value in data.model_dump(mode="json").items() if key != "source"}
    plans = [(p.digest, p.format, p.columns, p.weight) for p in pinned]
    return Request(
        sources=pinned,
        data=data,
        seed=seed,
        method=method,
        model=str(model),
        runs_dir=str(runs_dir),
        fingerprint=files.digest(["prepared", plans, kept, seed, method, chat_digest, identity.code(*MODULES)]),
        beside=str(beside),
    )


def reuse(runs_dir: Path, mark: str) -> Prepared | None:
    """Data prepared before under this fingerprint, if all of it is there and unaltered."""
    folder = runs_dir / ".prepared" / mark
    values = records.read(folder / records.RECORD, mark, folder)
    # Where it was found, not where it was made: the folder of all runs may have moved.
    return Prepared.model_validate({**values, "folder": str(folder)}) if values else None


def prepare(asked: Request, cores: int | None = None) -> Prepared:
    """Prepare the data in this process and workers forked from it, or take what is there already.

    Raises DataError where rows are bad beyond `max_bad_rows` (and puts the quarantine into `beside`), and ConfigError
    where the chat template cannot serve.
    """
    runs_dir = Path(asked.runs_dir)
    with locks.hold(runs_dir, f".prepared-{asked.fingerprint}", wait=True):
        there = reuse(runs_dir, asked.fingerprint)
        if there is not None:
            return there
        asked = asked.model_copy(update={"sources": tuple(sources.fetch(source) for source in asked.sources)})
        try:
            return _prepare(asked, cores or workers.cores(), fast=True)
        except preparing.Unequal:
            log.warning("the fast encoder and the model's own disagree on this data: all of it by the model's own")
            return _prepare(asked, cores or workers.cores(), fast=False)


def prepare_apart(asked: Request, on_line: Callable[[str], None]) -> Prepared:
    """As `prepare`, in a process of its own: this one may have threads, which forked workers do not survive."""
    there = reuse(Path(asked.runs_dir), asked.fingerprint)
    if there is not None:
        return there
    fetched = asked.model_copy(update={"sources": tuple(sources.fetch(source) for source in asked.sources)})
    path = asked.folder.with_name(f".request-{asked.fingerprint}.json")
    files.write(path, fetched.model_dump_json())
    try:
        processes.run(__name__, str(path), on_line=on_line)
    finally:
        path.unlink(missing_ok=True)
    prepared = reuse(Path(asked.runs_dir), asked.fingerprint)
    assert prepared is not None
    return prepared


def show(prepared: Prepared, beside: Path) -> None:
    """Copy the ledger, the quarantine and the data page beside a run."""
    for name in ("ledger.json", "quarantine.jsonl", "report.html"):
        files.write(beside / name, (Path(prepared.folder) / name).read_bytes())


def _prepare(asked: Request, cores: int, fast: bool) -> Prepared:
    gathered.check_weights([source.weight for source in asked.sources])
    partial = asked.folder.with_name(f".partial-{asked.fingerprint}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    accounts = [ledger.Account(source.source) for source in asked.sources]
    quarantine = partial / "quarantine.jsonl"
    try:
        with shards.Documents(partial / "documents") as documents, quarantine.open("w", encoding="utf-8") as dropped:
            work = preparing.begin(asked.data, asked.method, chat.load(Path(asked.model)), fast)
            prepared = _all(asked, work, cores, accounts, documents, dropped, partial)
    except DataError:
        for name in ("ledger.json", "quarantine.jsonl"):
            if (partial / name).is_file():
                files.write(Path(asked.beside) / name, (partial / name).read_bytes())
        shutil.rmtree(partial)
        raise
    shutil.rmtree(partial / "documents")
    records.write(partial / records.RECORD, asked.fingerprint, prepared.model_dump(), partial)
    files.move_folder(partial, asked.folder)
    return prepared


def _all(
    asked: Request,
    work: preparing.Work,
    cores: int,
    accounts: list[ledger.Account],
    documents: shards.Documents,
    dropped: IO[str],
    partial: Path,
) -> Prepared:
    """Every block of every source through the workers, then everything that needs all rows at once."""
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
        documents.add(one.ids, one.mask)
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
    rows = gathered.gather(done)
    kept = _account(rows, asked.data, accounts, places, dropped)
    if not len(kept):
        files.write_json(partial / "ledger.json", ledger.of_nothing(accounts))
    ledger.check(accounts, asked.data.max_bad_rows)
    facts = shards.Facts(
        np.concatenate(lengths),
        np.concatenate(answers),
        np.repeat(rows.place, rows.parts),
        np.repeat(rows.line, rows.parts),
    )
    dropped.flush()
    return _write(asked, work, rows, kept, accounts, documents, facts, places, partial)


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


def _account(rows: Rows, data: Data, accounts: list[ledger.Account], places: list[str], dropped: IO[str]) -> Indices:
    """Enter every usable row in the ledger, as kept or as a duplicate. Returns the kept ones."""
    repeated = gathered.duplicates(rows, data.dedup)
    again = BadRow("duplicate", "another row says the same")
    for index in np.flatnonzero(repeated):
        accounts[rows.source[index]].drop(again, places[rows.place[index]], int(rows.line[index]), dropped)
    kept = np.flatnonzero(~repeated)
    for source, account in enumerate(accounts):
        notes = rows.notes[kept][rows.source[kept] == source]
        account.kept = len(notes)
        for note in Note:
            account.noted[str(note.name).lower()] = int(np.count_nonzero(notes & note))
    return kept


def _write(
    asked: Request,
    work: preparing.Work,
    rows: Rows,
    kept: Indices,
    accounts: list[ledger.Account],
    documents: shards.Documents,
    facts: shards.Facts,
    places: list[str],
    partial: Path,
) -> Prepared:
    """Write the shards, the ledger and the data page."""
    data = asked.data
    members = gathered.split(rows, kept, data, asked.seed)
    weights = [source.weight for source in asked.sources]
    train, repeats = gathered.mix(rows, members["train"], weights, asked.seed)
    for account, repeated in zip(accounts, repeats, strict=True):
        account.repeated = repeated
    packs = data.packing and asked.method == "sft"
    sequences = _sequences(asked, rows, train)
    if packs:
        packed = packing.pack(facts.lengths[sequences.order].astype(np.int64), data.max_length)
        sequences = packing.Sequences(sequences.order[packed.order], packed.ends)
    counts = {"train": documents.write_shard(partial / "train.arrow", sequences, facts)}
    for split in HELD_OUT:
        counts[split] = documents.write_shard(
            partial / f"{split}.arrow", _sequences(asked, rows, members[split]), facts
        )
    tokens, supervised = counts["train"]
    longest = np.add.reduceat(facts.lengths[sequences.order], np.concatenate([[0], sequences.ends[:-1]])).max()
    book = {
        "sources": [account.entry() for account in accounts],
        "splits": {split: len(members[split]) for split in SPLITS},
        "tokens": sum(tokens for tokens, _ in counts.values()),
        "supervised_tokens": sum(trained for _, trained in counts.values()),
        "sequences": len(sequences),
        "fill": round(tokens / (len(sequences) * data.max_length), 4) if packs else None,
    }
    files.write_json(partial / "ledger.json", book)
    files.write_json(partial / "places.json", {"places": places})
    files.write(partial / "report.html", datapage.page(book, partial, data, work.chat))
    return Prepared(
        folder=str(asked.folder),
        fingerprint=asked.fingerprint,
        rows=book["splits"],
        sequences=len(sequences),
        tokens=tokens,
        supervised_tokens=supervised,
        longest=int(longest),
        ledger=book,
    )


def _sequences(asked: Request, rows: Rows, members: Indices) -> packing.Sequences:
    """Documents before packing: each by itself, or together with those of its row where a method compares them."""
    of_rows = gathered.sequences(rows, members)
    return packing.alone(of_rows.order) if asked.method == "sft" else of_rows


def _main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    prepare(Request.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))


if __name__ == "__main__":
    processes.end_with_parent()
    sys.exit(processes.child(_main))
