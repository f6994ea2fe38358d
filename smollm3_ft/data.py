"""Sources → Prepared: each row read, accounted for, rendered, tokenized, masked, split and packed, once.

The result lies in `.prepared/<fingerprint>/` and is reused by every run whose data, tokenizer, template and settings
are the same. Memory grows with the number of rows only by a few numbers a row. `python -m smollm3_ft.data REQUEST` is
the process that prepares for a run.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from smollm3_ft import (
    assembly,
    chat,
    disk,
    documents,
    files,
    gathered,
    identity,
    ledger,
    locks,
    processes,
    records,
    shards,
    sources,
    workers,
)
from smollm3_ft.assembly import Request as Request
from smollm3_ft.config import Data
from smollm3_ft.errors import DataError
from smollm3_ft.sources import SourcePlan

# What prepared data depends on. A change in one of them prepares it anew.
MODULES = (
    "assembly",
    "chat",
    "conversations",
    "csvfile",
    "data",
    "datapage",
    "documents",
    "encoding",
    "formats",
    "gathered",
    "inspection",
    "leaking",
    "leaks",
    "ledger",
    "packing",
    "pages",
    "preparing",
    "proof",
    "reading",
    "rendering",
    "shards",
    "sources",
    "strictjson",
    "tables",
    "turns",
)
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
    content: str  # a digest of the sequences themselves: equal data has an equal one, wherever it was made
    ledger: dict[str, Any]


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
        with disk.named_when_full(asked.folder.parent):
            try:
                return _prepare(asked, cores or workers.cores(), fast=True)
            except documents.Unequal:
                log.warning("the fast encoder and the model's own disagree on this data: that prepares it, more slowly")
                return _prepare(asked, cores or workers.cores(), fast=False)


def prepare_apart(asked: Request, on_line: Callable[[str], None]) -> Prepared:
    """As `prepare`, in a process of its own: this one may have threads, which forked workers do not survive."""
    there = reuse(Path(asked.runs_dir), asked.fingerprint)
    if there is not None:
        return there
    fetched = asked.model_copy(update={"sources": tuple(sources.fetch(source) for source in asked.sources)})
    with tempfile.TemporaryDirectory() as place:  # its own: another may ask for the same at once
        path = Path(place) / "request.json"
        files.write(path, fetched.model_dump_json())
        processes.run(__name__, str(path), on_line=on_line)
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
        with shards.Documents(partial / "documents") as store, quarantine.open("w", encoding="utf-8") as dropped:
            work = documents.begin(asked.data, asked.method, chat.load(Path(asked.model)), fast)
            values = assembly.assemble(asked, work, cores, accounts, store, dropped, partial)
        _check_as_pinned(asked)
    except DataError:
        for name in ("ledger.json", "quarantine.jsonl"):
            if (partial / name).is_file():
                files.write(Path(asked.beside) / name, (partial / name).read_bytes())
        shutil.rmtree(partial)
        raise
    shutil.rmtree(partial / "documents")
    content = files.digest_of(partial.glob("*.arrow"))
    prepared = Prepared(folder=str(asked.folder), fingerprint=asked.fingerprint, content=content, **values)
    records.write(partial / records.RECORD, asked.fingerprint, prepared.model_dump(), partial)
    files.move_folder(partial, asked.folder)
    return prepared


def _check_as_pinned(asked: Request) -> None:
    """Raise DataError where a source changed meanwhile: others would take what was made for the data that it was."""
    altered = sources.altered(asked.sources, Path(asked.runs_dir))
    if altered:
        raise DataError(f"{altered[0]} changed after it was pinned", "run the same command again")


def _main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    prepare(Request.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))


if __name__ == "__main__":
    processes.end_with_parent()
    sys.exit(processes.child(_main))
