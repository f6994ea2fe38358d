"""Sources → Prepared: each row read, accounted for, rendered, tokenized, masked, split and packed, once.

The result lies in `.prepared/<fingerprint>/` and is reused by every run whose data, tokenizer, template and settings
are the same. Memory grows with the number of rows only by a few numbers a row.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers
from pydantic import BaseModel, ConfigDict

from smollm3_ft import chat as chats
from smollm3_ft import conversations, datapage, files, identity, ledger, locks, records, shards, sources
from smollm3_ft.config import Data
from smollm3_ft.errors import ConfigError, DataError, Problem
from smollm3_ft.formats import BadRow
from smollm3_ft.packing import pack
from smollm3_ft.sources import Line, SourcePlan

ROWS_AT_ONCE = 1000
MODULES = ("chat", "conversations", "data", "datapage", "formats", "ledger", "packing", "pages", "shards", "sources")


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


class Encoded(NamedTuple):
    """A conversation's tokens, which are trained on, and where its last answer begins (-1: cut off)."""

    ids: npt.NDArray[np.int32]
    mask: npt.NDArray[np.int8]
    answer: int
    cut: bool


class Work(NamedTuple):
    """What is gathered while the rows are read: one entry a kept row in `given` and `draws`."""

    data: Data
    seed: int
    chat: chats.Chat
    documents: shards.Documents
    quarantine: IO[str]
    places: list[str]
    given: list[str]
    draws: list[tuple[int, int]]
    seen: set[bytes]


def fingerprint(pinned: tuple[SourcePlan, ...], data: Data, seed: int, chat_digest: str, code: str) -> str:
    """Of everything that the prepared data depends on."""
    kept = {key: value for key, value in data.model_dump(mode="json").items() if key != "source"}
    plans = [(p.digest, p.format, p.columns) for p in pinned]
    return files.digest(["prepared", plans, kept, seed, chat_digest, code])


def code() -> str:
    """A digest of the code that prepared data depends on."""
    return identity.code(*MODULES)


def reuse(runs_dir: Path, mark: str) -> Prepared | None:
    """Data prepared before under this fingerprint, if all of it is there and unaltered."""
    folder = runs_dir / ".prepared" / mark
    values = records.read(folder / records.RECORD, mark, folder)
    # Where it was found, not where it was made: the folder of all runs may have moved.
    return Prepared.model_validate({**values, "folder": str(folder)}) if values else None


def prepare(
    pinned: tuple[SourcePlan, ...], data: Data, seed: int, model: Path, runs_dir: Path, mark: str, beside: Path
) -> Prepared:
    """Prepare the data, or take what is there already. Where it fails, `beside` gets the quarantine.

    Raises DataError where rows are bad beyond `max_bad_rows`, and ConfigError where the template cannot serve.
    """
    with locks.hold(runs_dir, f".prepared-{mark}", wait=True):
        return reuse(runs_dir, mark) or _prepare(pinned, data, seed, model, runs_dir / ".prepared" / mark, beside)


def show(prepared: Prepared, beside: Path) -> None:
    """Copy the ledger, the quarantine and the data page beside a run."""
    for name in ("ledger.json", "quarantine.jsonl", "report.html"):
        files.write(beside / name, (Path(prepared.folder) / name).read_bytes())


def _prepare(
    pinned: tuple[SourcePlan, ...], data: Data, seed: int, model: Path, folder: Path, beside: Path
) -> Prepared:
    chat = chats.load(model)
    if data.loss_on != "all" and not chat.has_marks:
        what = "the chat template does not mark what the assistant says ({% generation %})"
        raise ConfigError(Problem("data.loss_on", what, "use data.loss_on=all, or a template with the marks"))
    if data.system_prompt is not None:
        try:
            conversations.check_text(data.system_prompt, chat)
        except BadRow as bad:
            raise ConfigError(Problem("data.system_prompt", bad.detail, "leave it out of the prompt")) from None
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    accounts = [ledger.Account(plan.source) for plan in pinned]
    quarantine = partial / "quarantine.jsonl"
    try:
        with shards.Documents(partial / "documents") as documents, quarantine.open("w", encoding="utf-8") as dropped:
            work = Work(data, seed, chat, documents, dropped, [], [], [], set())
            # Held-out rows of every source come first, so that a repeated row is dropped from training.
            for split in (*sources.HELD_OUT, "train"):
                for plan, account in zip(pinned, accounts, strict=True):
                    lines = sources.read(plan, split)
                    while batch := list(itertools.islice(lines, ROWS_AT_ONCE)):
                        _take_batch(batch, plan, split, account, work)
            ledger.check(accounts, data.max_bad_rows)
            prepared = _write(partial, folder, accounts, work)
    except DataError:
        files.write(beside / "quarantine.jsonl", quarantine.read_bytes())
        shutil.rmtree(partial)
        raise
    shutil.rmtree(partial / "documents")
    records.write(partial / records.RECORD, folder.name, prepared.model_dump(), partial)
    files.move_folder(partial, folder)
    return prepared


def _take_batch(batch: list[Line], plan: SourcePlan, split: str, account: ledger.Account, work: Work) -> None:
    """Enter every line of a batch in the ledger: kept with its tokens, or dropped with its reason."""
    usable = []
    for line in batch:
        account.rows += 1
        try:
            if isinstance(line.row, BadRow):
                raise line.row
            conversation = conversations.read(line.row, plan, work.data, work.chat)
            account.formats[conversation.format] += 1
            _check_new(conversation.digest, work)
            usable.append((line, conversation))
        except BadRow as bad:
            account.drop(bad, line.place, line.number, work.quarantine)
    texts = [conversation.rendered.text for _, conversation in usable]
    encodings = work.chat.tokenizer.encode_batch(texts, add_special_tokens=False)
    for (line, conversation), encoding in zip(usable, encodings, strict=True):
        try:
            encoded = _encode(encoding, conversation.rendered, work.data, line)
        except BadRow as bad:
            account.drop(bad, line.place, line.number, work.quarantine)
            continue
        account.kept += 1
        account.cut += encoded.cut
        if not work.places or work.places[-1] != line.place:
            work.places.append(line.place)
        work.documents.add(encoded.ids, encoded.mask, encoded.answer, len(work.places) - 1, line.number)
        work.given.append(split)
        work.draws.append(_draw(conversation.digest, work.seed))


def _check_new(digest: bytes, work: Work) -> None:
    if work.data.dedup == "exact" and digest in work.seen:
        raise BadRow("duplicate", "another row says the same")
    work.seen.add(digest)


def _encode(encoding: tokenizers.Encoding, rendered: chats.Rendered, data: Data, line: Line) -> Encoded:
    """Tokens and mask of a rendered row, `max_length` kept to. Raises BadRow where it is dropped for its length."""
    ids = np.array(encoding.ids, dtype=np.int32)
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    spans = [(offsets[:, 0] >= start) & (offsets[:, 1] <= stop) for start, stop in rendered.spans]
    answers = np.flatnonzero(spans[-1]) if spans else np.array([], dtype=np.int64)
    if data.loss_on == "all":
        mask = np.ones(len(ids), dtype=np.int8)
    else:
        said = spans[-1:] if data.loss_on == "last" else spans
        mask = np.logical_or.reduce(said).astype(np.int8) if said else np.zeros(len(ids), dtype=np.int8)
    mask[:1] = 0  # nothing comes before the first token that could predict it
    answer = int(answers[0]) if len(answers) else -1
    cut = len(ids) > data.max_length
    if cut:
        detail = f"{len(ids)} tokens, data.max_length is {data.max_length}"
        if data.over_length == "error":
            raise DataError(f"{line.place}:{line.number} has {detail}", "raise it, or set data.over_length=drop")
        if data.over_length == "drop":
            raise BadRow("over_length", detail)
        ids, mask = ids[: data.max_length], mask[: data.max_length]
        answer = -1
    if not mask.any():
        raise BadRow("no_trained_token", "no token of it would be trained on")
    return Encoded(ids, mask, answer, cut)


def _draw(digest: bytes, seed: int) -> tuple[int, int]:
    """Two numbers in [0, 2**64), for test and validation: of the row's text and the seed alone, so that added rows
    move no other."""
    keyed = hashlib.blake2b(digest, digest_size=16, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(keyed[:8], "little"), int.from_bytes(keyed[8:], "little")


def _split(work: Work) -> dict[str, list[int]]:
    """Documents of each split: the given ones, and from the training rows what the settings take."""
    members: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for index, split in enumerate(work.given):
        members[split].append(index)
    if not members["train"]:
        raise DataError("no training row is left", "see the quarantine: rows that repeat a held-out row are dropped")
    for draw, (split, wanted) in enumerate((("test", work.data.test), ("validation", work.data.validation))):
        if members[split] or wanted is None:
            continue
        if isinstance(wanted, str):
            raise DataError(f"no source has a split {wanted}", f"set data.{split} to a share, to rows, or to none")
        drawn = sorted((work.draws[index][draw], index) for index in members["train"])
        share = (
            [index for at, index in drawn if at < wanted * 2**64]
            if wanted < 1
            else [i for _, i in drawn][: int(wanted)]
        )
        members[split] = sorted(share or [drawn[0][1]])
        held = set(members[split])
        members["train"] = [index for index in members["train"] if index not in held]
        if not members["train"]:
            raise DataError(
                f"data.{split}={wanted} leaves none of {len(work.given)} rows to train on",
                "give more rows, or hold out fewer",
            )
    return members


def _write(partial: Path, folder: Path, accounts: list[ledger.Account], work: Work) -> Prepared:
    """Write the shards, the ledger and the data page."""
    documents, data = work.documents, work.data
    members = _split(work)
    lengths = documents.lengths()
    train = members["train"]
    if data.packing:
        packed = pack([int(lengths[index]) for index in train], data.max_length)
        sequences = [[train[position] for position in sequence] for sequence in packed]
    else:
        sequences = [[index] for index in train]
    counts = {"train": documents.write_shard(partial / "train.arrow", sequences)}
    for split in sources.HELD_OUT:
        counts[split] = documents.write_shard(partial / f"{split}.arrow", [[index] for index in members[split]])
    book = {
        "sources": [account.entry() for account in accounts],
        "splits": {split: len(held) for split, held in members.items()},
        "tokens": sum(tokens for tokens, _ in counts.values()),
        "supervised_tokens": sum(trained for _, trained in counts.values()),
    }
    files.write_json(partial / "ledger.json", book)
    files.write_json(partial / "places.json", {"places": work.places})
    work.quarantine.flush()
    files.write(partial / "report.html", datapage.page(book, partial, lengths, work.chat))
    tokens, supervised = counts["train"]
    return Prepared(
        folder=str(folder),
        fingerprint=folder.name,
        rows=book["splits"],
        sequences=len(sequences),
        tokens=tokens,
        supervised_tokens=supervised,
        longest=max((int(sum(lengths[i] for i in s)) for s in sequences), default=0),
        ledger=book,
    )
