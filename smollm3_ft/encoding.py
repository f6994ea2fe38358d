"""Pieces of rendered text → tokens, which of them are trained on, and where the last answer begins.

The template's own special tokens are control tokens; the same characters in a message are text. Between two control
tokens, text is encoded as a whole, so that the tokens are those of the whole conversation. Where the model's tokenizer
is a byte-level BPE, tiktoken does the same merges several times faster; that both agree is tried at every start and
on rows all along.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tiktoken
import tokenizers

from smollm3_ft.chat import Chat
from smollm3_ft.rendering import PROBES, Piece, Rendered

# Texts that tokenizers have been seen to disagree on.
TRIALS = (
    "it's I'LL don't, 12345 3.14159 2,000,000 x=1;y+=2 !!! ... --- \t\t tabs\n\n\n  lines \r\n end  ",
    "Grüße 你好世界 こんにちは 안녕 Привет مرحبا שלום नमस्ते e\u0301 ﬁ 👋🏽👩‍👩‍👧 ①²½ \u00a0\u200b\u2028x",
    "def f(a, b):\n    return {'k': [a, *b]}  # note\n\nhttps://example.org/a?b=c&d=%20#e <b>bold</b> <|im_end|> <|x|>",
    "aaaaaaaaaaaaaaaaaaaaaaaa AAAAAAAA ababababab zzzzzz 0000000000 ?!?!?!?! ''''' \"\"\" \n \n  \n\t\n",
    "internationalization Donaudampfschifffahrtsgesellschaft antidisestablishmentarianism camelCase snake_case",
)


class Encoded(NamedTuple):
    """A document: its tokens, to which answer each belongs (-1: none), and where its last answer begins (-1: none)."""

    ids: npt.NDArray[np.int32]
    answers: npt.NDArray[np.int32]
    asked_until: int


class Sought(NamedTuple):
    """Tokens looked for in texts: what all of them begin with, which is quickly ruled out, and a pattern of them."""

    hint: str
    pattern: re.Pattern[str]

    def is_in(self, text: str) -> bool:
        return self.hint in text and self.pattern.search(text) is not None


class Encoder(NamedTuple):
    """A model's tokenizer, twice: with its special tokens, and with their characters as text; and a faster equal."""

    control: tokenizers.Tokenizer
    text: tokenizers.Tokenizer
    special: Sought
    added: Sought  # tokens that are no control tokens and yet matched before the merges: <think>
    fast: tiktoken.Encoding | None


class Step(NamedTuple):
    """A part of a program: tokens that are always the same, or texts (a message's, by its index) to encode."""

    ids: tuple[int, ...]
    parts: tuple[str | int, ...]
    answer: int


class Program(NamedTuple):
    """How conversations of one shape are encoded, and the step with which the last answer begins."""

    steps: tuple[Step, ...]
    answers: npt.NDArray[np.int32]
    asked_until: int


def load(chat: Chat, try_fast: bool = True) -> Encoder:
    """The tokenizer's encoder; the faster way only where both agree."""
    written = chat.tokenizer.to_str()
    text = tokenizers.Tokenizer.from_str(written)
    text.encode_special_tokens = True
    text.post_processor = None  # it adds nothing here, and moves the offsets of white space
    added = [t.content for t in chat.tokenizer.get_added_tokens_decoder().values() if not t.special]
    exact = Encoder(chat.tokenizer, text, _sought(chat.special_tokens), _sought(added), None)
    if not try_fast:
        return exact
    fast = exact._replace(fast=_tiktoken(json.loads(written), added))
    return fast if fast.fast is not None and _agree(fast, chat.tokenizer) else exact


def encode(encoder: Encoder, rendered: Rendered) -> Encoded:
    """The tokens of a conversation by the model's own tokenizer."""
    ids: list[int] = []
    answers: list[int] = []
    asked_until = -1
    for chunk in _chunks(encoder, rendered):
        if chunk.special is not None:
            tokens, holders = [chunk.special], [0]
        else:
            tokens, holders = _tokens_of(encoder.text, chunk.pieces)
        for token, holder in zip(tokens, holders, strict=True):
            if asked_until < 0 and rendered.asked_until >= 0 and chunk.first + holder >= rendered.asked_until:
                asked_until = len(ids)
            ids.append(token)
            answers.append(chunk.pieces[holder].answer)
    return Encoded(np.array(ids, dtype=np.int32), np.array(answers, dtype=np.int32), asked_until)


def encode_text(encoder: Encoder, text: str) -> list[int]:
    """The tokens of plain text, special tokens' characters as text."""
    if encoder.fast is None:
        return list(encoder.text.encode(text, add_special_tokens=False).ids)
    if encoder.added.is_in(text):
        return encoder.fast.encode(text, allowed_special="all", disallowed_special=())
    return encoder.fast.encode_ordinary(text)


def program(encoder: Encoder, shape: Rendered) -> Program | None:
    """How to encode conversations of a shape text by text; None where only the whole tells."""
    if encoder.fast is None:
        return None
    steps: list[Step] = []
    asked_until = -1
    for chunk in _chunks(encoder, shape):
        if shape.asked_until >= 0 and asked_until < 0 and chunk.first == shape.asked_until:
            asked_until = len(steps)
        if chunk.special is not None:
            steps.append(Step((chunk.special,), (), chunk.pieces[0].answer))
            continue
        for at, piece in enumerate(chunk.pieces):
            begins = at > 0 and chunk.first + at == shape.asked_until
            if at and not begins and piece.answer == steps[-1].answer:
                steps[-1] = steps[-1]._replace(parts=(*steps[-1].parts, _part(piece)))
                continue
            if at and not (piece.message >= 0 and _parts_well(encoder, steps[-1].parts)):
                return None
            if begins:
                asked_until = len(steps)
            steps.append(Step((), (_part(piece),), piece.answer))
    made = tuple(_settled(encoder, step) for step in steps)
    return Program(made, np.array([step.answer for step in made], dtype=np.int32), asked_until)


def run(encoder: Encoder, made: Program, messages: Sequence[Mapping[str, Any]]) -> Encoded:
    """The tokens of a plain conversation, by the program of its shape."""
    ids: list[int] = []
    ends = []
    for step in made.steps:
        if step.parts:
            text = "".join([messages[part]["content"] if isinstance(part, int) else part for part in step.parts])
            ids += encode_text(encoder, text)
        else:
            ids += step.ids
        ends.append(len(ids))
    lengths = np.diff(ends, prepend=0)
    asked_until = -1 if made.asked_until < 0 else (ends[made.asked_until - 1] if made.asked_until else 0)
    return Encoded(np.array(ids, dtype=np.int32), made.answers.repeat(lengths), asked_until)


class _Chunk(NamedTuple):
    """A control token, or the text between two of them; the index of its first piece in the conversation."""

    special: int | None
    pieces: list[Piece]
    first: int


def _chunks(encoder: Encoder, rendered: Rendered) -> list[_Chunk]:
    """The conversation cut at the control tokens, which are the template's own alone."""
    chunks: list[_Chunk] = []
    open_chunk: _Chunk | None = None
    for index, piece in enumerate(rendered.pieces):
        parts = [piece.text]
        if piece.message < 0:
            parts = encoder.special.pattern.split(piece.text)  # every second one is a special token
        for at, part in enumerate(parts):
            if at % 2:
                chunks.append(_Chunk(encoder.control.token_to_id(part), [piece], index))
                open_chunk = None
            elif part or piece.message >= 0:
                if open_chunk is None:
                    open_chunk = _Chunk(None, [], index)
                    chunks.append(open_chunk)
                open_chunk.pieces.append(piece._replace(text=part))
    return chunks


def _tokens_of(tokenizer: tokenizers.Tokenizer, pieces: list[Piece]) -> tuple[list[int], list[int]]:
    """The tokens of joined pieces, and the piece that each lies in: of one across an edge, the one it ends in.

    A token across the beginning of an answer belongs to what comes before: nobody asked the model for it.
    """
    encoding = tokenizer.encode("".join(piece.text for piece in pieces), add_special_tokens=False)
    ends = np.cumsum([len(piece.text) for piece in pieces])
    starts = np.array([start for start, _ in encoding.offsets], dtype=np.int64)
    return list(encoding.ids), np.searchsorted(ends, starts, side="right").clip(max=len(pieces) - 1).tolist()


def _part(piece: Piece) -> str | int:
    return piece.message if piece.message >= 0 else piece.text


def _settled(encoder: Encoder, step: Step) -> Step:
    """A step without a message is the same tokens every time."""
    if step.ids or any(isinstance(part, int) for part in step.parts):
        return step
    text = "".join(part for part in step.parts if isinstance(part, str))
    return Step(tuple(encoder.text.encode(text, add_special_tokens=False).ids), (), step.answer)


def _parts_well(encoder: Encoder, parts: tuple[str | int, ...]) -> bool:
    """Whether what comes behind these parts may be encoded by itself: they end a line, and the trials say so."""
    before = parts[-1]
    if not isinstance(before, str) or not before.endswith("\n") or len(parts) > 1:
        return False
    apart = encode_text(encoder, before)
    trials = [trial.strip() for trial in (*PROBES, *TRIALS)]
    return all(encode_text(encoder, before + trial) == apart + encode_text(encoder, trial) for trial in trials)


def _sought(tokens: Sequence[str]) -> Sought:
    """A search for tokens, the longest first, in a group: splitting by its pattern keeps them."""
    ordered = sorted(tokens, key=len, reverse=True)
    pattern = "(" + "|".join(map(re.escape, ordered)) + ")" if ordered else r"((?!))"  # which nothing matches
    return Sought(os.path.commonprefix(ordered), re.compile(pattern))  # noqa: RUF071  # of texts, not of paths


def _agree(encoder: Encoder, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the faster way gives the tokenizer's own tokens, on trial texts and a part of its vocabulary."""
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    words = [tokenizer.decode([token]) for token in range(0, size, max(1, size // 2000))]
    texts = [*TRIALS, *PROBES, " ".join(words), "".join(words), *words]
    exact = encoder.text.encode_batch(texts, add_special_tokens=False)
    return all(encode_text(encoder, text) == encoding.ids for text, encoding in zip(texts, exact, strict=True))


def _tiktoken(written: dict[str, Any], added: Sequence[str]) -> tiktoken.Encoding | None:
    """The same merges in tiktoken, or None where the tokenizer does more than byte-level merges."""
    model = written["model"]
    pattern = _word_pattern(written["pre_tokenizer"])
    marks = written["added_tokens"]
    odd = any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"))
    odd = odd or any(mark["lstrip"] or mark["rstrip"] or mark["single_word"] for mark in marks)
    if model["type"] != "BPE" or written["normalizer"] or pattern is None or odd:
        return None
    outside = {mark["content"]: mark["id"] for mark in marks}
    try:
        ranks = {_raw(token): rank for token, rank in model["vocab"].items() if token not in outside}
    except KeyError:
        return None  # its vocabulary is not of bytes
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    order = [model["vocab"][first + second] for first, second in merges]
    if order != sorted(order) or not all(bytes([byte]) in ranks for byte in range(256)):
        return None
    special = {token: outside[token] for token in added}
    return tiktoken.Encoding("model", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


# GPT-2's words: what a ByteLevel pre-tokenizer splits by itself.
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _word_pattern(pre: dict[str, Any] | None) -> str | None:
    """The pattern that splits text into words before the merges, if that is all that happens."""
    match pre:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None


def _alphabet() -> dict[str, int]:
    """Byte-level BPE's letters: the printable ones of Latin-1 for themselves, the rest from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(rest)}


ALPHABET = _alphabet()


def _raw(token: str) -> bytes:
    return bytes(ALPHABET[letter] for letter in token)
