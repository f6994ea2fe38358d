"""Whether this project's tokens and masks are those of the reference, row by row."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

from smollm3_ft import shards
from smollm3_ft.builtin import tiny


class Tokens(NamedTuple):
    """A row's tokens, and which of them are trained on."""

    ids: NDArray[np.integer[Any]]
    mask: NDArray[np.bool_]


def compare(prepared: Path, rows: Path, model: Path, theirs: Path) -> dict[str, Any]:
    """How many rows were compared with TRL's tokens and how many with the exact reference, and which lines differ.

    TRL makes control tokens of text that looks like them; such rows are compared with the exact reference instead.
    """
    ours, trl = _ours(prepared), _theirs(theirs)
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # text that looks like a special token is text
    quarantine = [json.loads(line) for line in (prepared / "quarantine.jsonl").open(encoding="utf-8")]
    left_out = {entry["line"]: entry["reason"] for entry in quarantine}
    ways: Counter[str] = Counter()
    different = []
    with rows.open(encoding="utf-8") as lines:
        for number, (line, reference) in enumerate(zip(lines, trl, strict=True), start=1):
            messages = json.loads(line)["messages"]
            if number in left_out and number not in ours:
                ways[f"left out as {left_out[number]}"] += 1
                continue
            special = any(token in message["content"] for message in messages for token in tiny.SPECIAL)
            ways["exact" if special else "trl"] += 1
            if not _same(ours.get(number), exact(messages, tokenizer) if special else reference):
                different.append(number)
    return {"compared": dict(ways), "different": len(different), "first_different_lines": different[:10]}


def exact(messages: list[dict[str, str]], tokenizer: tokenizers.Tokenizer) -> Tokens:
    """What the built-in template means: its own special tokens, and between them text that is only text.

    A token that reaches over the end of the role's line belongs to what is said, as TRL has it.
    """
    opening, closing = tiny.SPECIAL.index("<|im_start|>"), tiny.SPECIAL.index("<|im_end|>")
    newline = tokenizer.encode("\n", add_special_tokens=False).ids
    ids: list[int] = []
    mask: list[bool] = []
    for message in messages:
        head, said = message["role"] + "\n", message["role"] == "assistant"
        text = tokenizer.encode(head + message["content"], add_special_tokens=False)
        ids += [opening, *text.ids, closing, *newline]
        mask += [False, *(said and stop > len(head) for _, stop in text.offsets), said, *(False for _ in newline)]
    return Tokens(np.array(ids), np.array(mask))


def _same(found: Tokens | None, wanted: Tokens) -> bool:
    return found is not None and np.array_equal(found.ids, wanted.ids) and np.array_equal(found.mask, wanted.mask)


def _ours(prepared: Path) -> dict[int, Tokens]:
    """By line of the source, every document of every split, cut out of its packed sequence."""
    found: dict[int, Tokens] = {}
    for split in ("train", "validation", "test"):
        table = shards.read(prepared / f"{split}.arrow")
        ids, mask, lengths, lines = (
            np.concatenate([chunk.flatten().to_numpy() for chunk in table[name].chunks] or [np.array([])])
            for name in ("input_ids", "mask", "lengths", "lines")
        )
        found |= dict(zip(lines.tolist(), _cut(ids, mask.astype(bool), lengths), strict=True))
    return found


def _theirs(path: Path) -> list[Tokens]:
    """In the order of the source."""
    with np.load(path) as kept:
        return _cut(kept["ids"], kept["mask"], kept["lengths"])


def _cut(ids: NDArray[Any], mask: NDArray[np.bool_], lengths: NDArray[Any]) -> list[Tokens]:
    ends = itertools.accumulate(lengths.tolist())
    return [Tokens(ids[end - n : end], mask[end - n : end]) for end, n in zip(ends, lengths.tolist(), strict=True)]
