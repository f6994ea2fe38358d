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
from collections.abc import Iterator, Mapping, Sequence
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


CONTROL = 1 << 30  # more than any token's number


class Encoded(NamedTuple):
    """A document: its tokens, to which answer each belongs (-1: none), and where its last answer begins (-1: none)."""

    ids: npt.NDArray[np.int32]
    answers: npt.NDArray[np.int32]
    asked_until: int


class Sought(NamedTuple):
    """Tokens looked for in texts: what all of them begin with, which is quickly ruled out, and a pattern of them."""

    hint: str
    pattern: re.Pattern[str]
    tokens: frozenset[str]

    def is_in(self, text: str) -> bool:
        return self.hint in text and self.pattern.search(text) is not None


class Encoder(NamedTuple):
    """A model's tokenizer, twice: with its special tokens, and with their characters as text; and a faster equal."""

    control: tokenizers.Tokenizer
    text: tokenizers.Tokenizer
    special: Sought
    added: Sought  # tokens that are no control tokens and yet matched before the merges: <think>
    fast: tiktoken.Encoding | None
    matched: frozenset[str]  # what the fast way matches in a rendered text: control tokens and those


class Step(NamedTuple):
    """A part of a program: tokens that are always the same, or texts (a message's, by its index) to encode.

    `length`: of the tokens that are always the same, else -1.
    """

    ids: tuple[int, ...]
    parts: tuple[str | int, ...]
    answer: int
    length: int = -1


class Program(NamedTuple):
    """How conversations of one shape are encoded.

    `parts`: the whole text, a message's as its index; `control`: the control tokens in it; `asked_until`: the step
    with which the last answer begins.
    """

    steps: tuple[Step, ...]
    answers: npt.NDArray[np.int32]
    parts: tuple[str | int, ...]
    control: npt.NDArray[np.int32]
    asked_until: int


def load(chat: Chat, try_fast: bool = True) -> Encoder:
    """The tokenizer's encoder; the faster way only where both agree."""
    written = chat.tokenizer.to_str()
    text = tokenizers.Tokenizer.from_str(written)
    text.encode_special_tokens = True
    text.post_processor = None  # it adds nothing here, and moves the offsets of white space
    added = [t.content for t in chat.tokenizer.get_added_tokens_decoder().values() if not t.special]
    matched = frozenset((*chat.special_tokens, *added))
    exact = Encoder(chat.tokenizer, text, _sought(chat.special_tokens), _sought(added), None, matched)
    if not try_fast:
        return exact
    fast = exact._replace(fast=_tiktoken(json.loads(written)))
    return fast if fast.fast is not None and _agree(fast, chat.tokenizer) else exact


def encode(encoder: Encoder, rendered: Rendered) -> Encoded:
    """The tokens of a conversation by the model's own tokenizer."""
    ids: list[int] = []
    answers: list[int] = []
    asked_until = -1
    for chunk in _chunks(encoder, rendered):
        for token, holder, answer in _tokens_of(encoder, chunk):
            if asked_until < 0 and rendered.asked_until >= 0 and chunk.first + holder >= rendered.asked_until:
                asked_until = len(ids)
            ids.append(token)
            answers.append(answer)
    return Encoded(np.array(ids, dtype=np.int32), np.array(answers, dtype=np.int32), asked_until)


def encode_text(encoder: Encoder, text: str) -> list[int]:
    """The tokens of plain text, special tokens' characters as text."""
    if encoder.fast is None:
        return list(encoder.text.encode(text, add_special_tokens=False).ids)
    if encoder.added.is_in(text):
        return encoder.fast.encode(text, allowed_special=encoder.added.tokens, disallowed_special=())
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
    return Program(
        made,
        np.array([step.answer for step in made], dtype=np.int32),
        tuple(_part(piece) for piece in shape.pieces),
        np.array([chunk.special for chunk in _chunks(encoder, shape) if chunk.special is not None], dtype=np.int32),
        asked_until,
    )


def run(encoder: Encoder, made: Program, messages: Sequence[Mapping[str, Any]]) -> Encoded:
    """The tokens of a plain conversation, by the program of its shape: encoded in one go, if no message holds the
    characters of a control token, and else step by step."""
    assert encoder.fast is not None
    text = "".join([part if isinstance(part, str) else messages[part]["content"] for part in made.parts])
    ids = encoder.fast.encode_to_numpy(text, allowed_special=encoder.matched, disallowed_special=()).astype(np.int32)
    at = np.flatnonzero(ids >= CONTROL)
    if len(at) != len(made.control):
        return _by_steps(encoder, made, messages)
    ids[at] = made.control
    control = [*at.tolist(), len(ids)]
    next_control = 0
    ends = []
    end = 0
    for step in made.steps:
        if step.length < 0:
            end = control[next_control]
        else:
            next_control += end == control[next_control]
            end += step.length
        ends.append(end)
    return _encoded(made, ids, ends)


def _by_steps(encoder: Encoder, made: Program, messages: Sequence[Mapping[str, Any]]) -> Encoded:
    ids: list[int] = []
    ends = []
    for step in made.steps:
        if step.length < 0:
            text = "".join([part if isinstance(part, str) else messages[part]["content"] for part in step.parts])
            ids += encode_text(encoder, text)
        else:
            ids += step.ids
        ends.append(len(ids))
    return _encoded(made, np.array(ids, dtype=np.int32), ends)


def _encoded(made: Program, ids: npt.NDArray[np.int32], ends: list[int]) -> Encoded:
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    asked_until = -1 if made.asked_until < 0 else ends[made.asked_until] - lengths[made.asked_until]
    return Encoded(ids, made.answers.repeat(lengths), asked_until)


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


def _tokens_of(encoder: Encoder, chunk: _Chunk) -> Iterator[tuple[int, int, int]]:
    """Each token of a chunk, the piece that it begins in, and the answer that it belongs to.

    A token across an edge of an answer belongs to the answer, as in transformers: else the line breaks with which an
    answer begins, one token with the template's own, would be learnt from no row.
    """
    if chunk.special is not None:
        yield chunk.special, 0, chunk.pieces[0].answer
        return
    encoding = encoder.text.encode("".join(piece.text for piece in chunk.pieces), add_special_tokens=False)
    ends = np.cumsum([len(piece.text) for piece in chunk.pieces])
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    first, last = (np.searchsorted(ends, at, side="right").tolist() for at in (offsets[:, 0], offsets[:, 1] - 1))
    for token, begins, stops in zip(encoding.ids, first, last, strict=True):
        yield token, begins, max(chunk.pieces[begins].answer, chunk.pieces[stops].answer)


def _part(piece: Piece) -> str | int:
    return piece.message if piece.message >= 0 else piece.text


def _settled(encoder: Encoder, step: Step) -> Step:
    """A step without a message is the same tokens every time."""
    if step.ids:
        return step._replace(length=1)
    if any(isinstance(part, int) for part in step.parts):
        return step
    text = "".join(part for part in step.parts if isinstance(part, str))
    ids = encoder.text.encode(text, add_special_tokens=False).ids
    return Step(tuple(ids), (), step.answer, len(ids))


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
    return Sought(os.path.commonprefix(ordered), re.compile(pattern), frozenset(tokens))  # noqa: RUF071  # of texts, not of paths


def _agree(encoder: Encoder, tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the faster way gives the tokenizer's own tokens, on trial texts and a part of its vocabulary."""
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    words = [tokenizer.decode([token]) for token in range(0, size, max(1, size // 2000))]
    texts = [*TRIALS, *PROBES, " ".join(words), "".join(words), *words]
    exact = encoder.text.encode_batch(texts, add_special_tokens=False)
    return all(encode_text(encoder, text) == encoding.ids for text, encoding in zip(texts, exact, strict=True))


def _tiktoken(written: dict[str, Any]) -> tiktoken.Encoding | None:
    """The same merges in tiktoken, or None where the tokenizer does more than byte-level merges.

    Control tokens get numbers from CONTROL on, by which they are found again.
    """
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
    special = {mark["content"]: mark["id"] + (CONTROL if mark["special"] else 0) for mark in marks}
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
