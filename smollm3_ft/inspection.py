"""What there is to show of prepared data: formats and counts, lengths and tokens, and rows with their trained tokens.

The data page and the command `smollm3-ft data` show the same, each in its way.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute

from smollm3_ft import files, packing, shards
from smollm3_ft.chat import Chat
from smollm3_ft.config import Data
from smollm3_ft.gathered import SPLITS

ROWS_SHOWN = 10
QUARANTINE_SHOWN = 20
MOST_BINS = 12
Numbers = npt.NDArray[np.int64]
# White space but single spaces between words, control characters, and what changes a text without being seen in it.
UNSEEN = re.compile(
    "[^\\S ]|  +|^ | $|(?<=\n) | (?=\n)|[\x00-\x08\x0e-\x1f\x7f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)


class Bin(NamedTuple):
    """Documents of `first` to `last` tokens: how many, their tokens, and the trained ones among these."""

    first: int
    last: int
    documents: int
    tokens: int
    trained: int


class Document(NamedTuple):
    """One sequence of tokens that is trained on by itself. `name` tells the documents of a row apart."""

    name: str
    ids: list[int]
    mask: list[int]


class Row(NamedTuple):
    """A row of a source: one document, the two of a preference pair, or the parts that it was split into."""

    place: str
    line: int
    documents: tuple[Document, ...]


class Piece(NamedTuple):
    """A part of a document's text that is shown in one way. `unseen` stands for white space and the like."""

    text: str
    trained: bool
    kind: Literal["text", "special", "unseen", "gap"]


class Packed(NamedTuple):
    """The training split in sequences of `capacity` tokens, of which `fill` is the share that is not padding."""

    sequences: int
    capacity: int
    fill: float


class View(NamedTuple):
    """Everything shown of a prepared folder. Places are named without the folder that all of them share."""

    ledger: dict[str, Any]
    counted: Literal["rows", "documents"]  # what the bins count: rows of several documents make a difference
    bins: list[Bin]
    packed: Packed | None
    rows: list[Row]
    quarantine: list[dict[str, Any]]


def view(ledger: dict[str, Any], folder: Path, data: Data) -> View:
    """Look at a prepared folder whose ledger this is."""
    sizes = {split: _sizes(folder / f"{split}.arrow") for split in SPLITS}
    lengths, trained = (np.concatenate([size[at] for size in sizes.values()]) for at in (0, 1))
    places = files.read_json(folder / "places.json")["places"]
    names = short(places)
    kept = sum(source["kept"] for source in ledger["sources"])
    return View(
        ledger,
        "rows" if len(lengths) == kept else "documents",
        _bins(lengths, trained),
        _packed(ledger, sizes["train"][0], data),
        _rows(folder / "train.arrow", [names[place] for place in places], _pair_names(ledger)),
        [{**row, "source": names[row["source"]]} for row in quarantine(folder)],
    )


def quarantine(folder: Path) -> list[dict[str, Any]]:
    """The first dropped rows."""
    with (folder / "quarantine.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in itertools.islice(file, QUARANTINE_SHOWN)]


def short(places: Sequence[str]) -> dict[str, str]:
    """Each place without the folder that all files share."""
    paths = [place for place in places if Path(place).is_absolute()]
    shared = os.path.commonpath([Path(path).parent for path in paths]) if paths else "/"
    return {place: os.path.relpath(place, shared) if Path(place).is_absolute() else place for place in places}


def formats(source: dict[str, Any]) -> str:
    """The formats found in a source, the commonest first, each with its share of the rows that were looked at."""
    looked_at = source["rows"] - source["dropped"].get("sampled", 0)
    named = [f"{name} ({percent(count, looked_at)})" for name, count in source["formats"].items()]
    return ", ".join(named).replace(")", " of rows)", 1) or "none that is known"


def percent(part: float, whole: float) -> str:
    """A share as people read it: 0 % and 100 % only where it is nothing and all."""
    share = 100 * part / max(1, whole)
    if 0 < share < 1:
        return "<1 %"
    return ">99 %" if 99 < share < 100 else f"{share:.0f} %"


def pieces(chat: Chat, document: Document, most: int) -> Iterator[Piece]:
    """A document's text in parts; of one that is longer than `most` tokens, its beginning and its end."""
    tokens = list(zip(document.ids, document.mask, strict=True))
    special = {number for number, token in chat.tokenizer.get_added_tokens_decoder().items() if token.special}
    left_out = len(tokens) - most
    parts = [tokens[: most // 2], tokens[-(most // 2) :]] if left_out > 0 else [tokens]
    for part in parts:
        if part is not parts[0]:
            yield Piece(f" … {left_out:,} more tokens … ", False, "gap")
        for (is_special, trained), group in itertools.groupby(part, key=lambda one: (one[0] in special, bool(one[1]))):
            text = chat.tokenizer.decode([token for token, _ in group], skip_special_tokens=False)
            yield from [Piece(text, trained, "special")] if is_special else _visible(text, trained)


def _visible(text: str, trained: bool) -> Iterator[Piece]:
    at = 0
    for found in UNSEEN.finditer(text):
        if found.start() > at:
            yield Piece(text[at : found.start()], trained, "text")
        yield Piece(_seen(found.group()), trained, "unseen")
        at = found.end()
    if at < len(text):
        yield Piece(text[at:], trained, "text")


def _seen(unseen: str) -> str:
    if unseen[0] == " ":
        return "·" * len(unseen)
    named = {"\n": "↵\n", "\t": "→\t", "\x7f": "␡"}
    return named.get(unseen) or (chr(0x2400 + ord(unseen)) if unseen < " " else f"⟨U+{ord(unseen):04X}⟩")


def _sizes(path: Path) -> tuple[Numbers, Numbers]:
    """Tokens and trained tokens of each document of a shard."""
    lengths, trained = [np.array([], dtype=np.int64)], [np.array([], dtype=np.int64)]
    for batch in shards.read(path).to_batches():
        of_batch = batch["lengths"].flatten().to_numpy().astype(np.int64)
        lengths.append(of_batch)
        starts = np.cumsum(of_batch) - of_batch
        trained.append(np.add.reduceat(batch["mask"].flatten().to_numpy(), starts, dtype=np.int64))
    return np.concatenate(lengths), np.concatenate(trained)


def _bins(lengths: Numbers, trained: Numbers) -> list[Bin]:
    edges = _edges(int(lengths.min()), int(lengths.max()))
    index = np.searchsorted(edges, lengths, side="right") - 1
    counts, tokens, in_loss = (
        np.bincount(index, weights=weights, minlength=len(edges) - 1).astype(np.int64).tolist()
        for weights in (None, lengths, trained)
    )
    bounds = [(first, after - 1) for first, after in itertools.pairwise(edges)]
    return [Bin(*bound, *values) for bound, *values in zip(bounds, counts, tokens, in_loss, strict=True)]


def _edges(shortest: int, longest: int) -> list[int]:
    """Where bins begin, and the end of the last: round numbers, or, where lengths differ much, powers of two."""
    if longest >= 8 * shortest:
        powers = [2**power for power in range(40)]
        halves = sorted([*powers, *(3 * power for power in powers)])
        edges = halves if longest < 64 * shortest else powers
        first = max(edge for edge in edges if edge <= shortest)
        return [edge for edge in edges if first <= edge <= longest] + [next(edge for edge in edges if edge > longest)]
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(step for step in steps if longest // step - shortest // step < MOST_BINS)
    starts = range(shortest // step * step, longest + 1, step)
    return [*starts, starts[-1] + step]


def _packed(ledger: dict[str, Any], lengths: Numbers, data: Data) -> Packed | None:
    """How well the training split is packed, or would be where rows were only looked at; None where it cannot be."""
    if ledger["fill"] is not None:
        return Packed(ledger["sequences"], data.max_length, ledger["fill"])
    if not data.packing or ledger["sequences"] != len(lengths):
        return None
    sequences = len(packing.pack(lengths, data.max_length))
    return Packed(sequences, data.max_length, float(lengths.sum()) / (sequences * data.max_length))


def _pair_names(ledger: dict[str, Any]) -> tuple[str, ...]:
    found = {name for source in ledger["sources"] for name in source["formats"]}
    return ("chosen", "rejected") if found == {"preference"} else ()


def _rows(path: Path, places: Sequence[str], pair: tuple[str, ...]) -> list[Row]:
    """Rows from all over the training split: packed sequences begin with their longest."""
    table = shards.read(path)
    ends = np.cumsum(pyarrow.compute.list_value_length(table["lengths"]).to_numpy())
    found = {}
    for document in np.linspace(0, ends[-1] - 1, ROWS_SHOWN).astype(int).tolist():
        number = int(np.searchsorted(ends, document, side="right"))
        (sequence,) = table.slice(number, 1).to_pylist()
        at = document - int(ends[number])  # from the end of its sequence
        place, line = sequence["places"][at], sequence["lines"][at]
        found[number, place, line] = Row(places[place], line, _documents(sequence, place, line, pair))
    return list(found.values())


def _documents(sequence: dict[str, Any], place: int, line: int, pair: tuple[str, ...]) -> tuple[Document, ...]:
    """The documents of one row in a sequence, each by its name where there are several."""
    stops = itertools.accumulate(sequence["lengths"])
    spans = zip(stops, sequence["lengths"], sequence["places"], sequence["lines"], strict=True)
    parts = [slice(stop - length, stop) for stop, length, *source in spans if source == [place, line]]
    count = len(parts)
    names = [f"{number} of {count}" for number in range(1, count + 1)] if count > 1 else [""]
    return tuple(
        Document(name, sequence["input_ids"][part], sequence["mask"][part])
        for name, part in zip(pair if count == len(pair) else names, parts, strict=True)
    )
