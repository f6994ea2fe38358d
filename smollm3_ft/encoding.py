"""Pieces of rendered text → tokens, which of them are trained on, and where the last answer begins.

The template's own special tokens are control tokens; the same characters in a message are text. Between two control
tokens, text is encoded as a whole, so that the tokens are those of the whole conversation. fastokens gives the same
tokens as the model's own tokenizer and is many times faster; that it does is tried at every start and on rows all
along. Where it does not, or does not know the kind of tokenizer, the model's own does it all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import fastokens
import numpy as np
import numpy.typing as npt
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


VOCABULARY_TRIED = 1000


class Encoded(NamedTuple):
    """A document: its tokens, to which answer each belongs (-1: none), and where its last answer begins (-1: none)."""

    ids: npt.NDArray[np.int32]
    answers: npt.NDArray[np.int32]
    asked_until: int


class Search(NamedTuple):
    """Tokens looked for in texts: what all of them begin with, which is quickly ruled out, and a pattern of them."""

    hint: str
    pattern: re.Pattern[str]

    def is_in(self, text: str) -> bool:
        return self.hint in text and self.pattern.search(text) is not None


class Encoder(NamedTuple):
    """A model's tokenizer, for which control tokens in a text are text; and a faster equal, if there is one."""

    text: tokenizers.Tokenizer
    control: dict[str, int]
    special: Search
    fast: fastokens.Tokenizer | None
    is_control: npt.NDArray[np.bool_]  # of every token, by its number
    longest: int  # characters of a token, at most


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

    `parts`: the whole text, a message's as its index; `controls`: how many control tokens are in it; `asked_until`:
    the step with which the last answer begins.
    """

    steps: tuple[Step, ...]
    answers: npt.NDArray[np.int32]
    parts: tuple[str | int, ...]
    controls: int
    asked_until: int


def load(chat: Chat, try_fast: bool = True) -> Encoder:
    """The tokenizer's encoder; the faster way only where both agree."""
    text = tokenizers.Tokenizer.from_str(chat.tokenizer.to_str())
    text.encode_special_tokens = True
    text.post_processor = None  # it adds nothing here, and moves the offsets of white space
    vocabulary = chat.tokenizer.get_vocab()
    is_control = np.zeros(max(vocabulary.values()) + 1, dtype=np.bool_)
    is_control[list(chat.special_tokens.values())] = True
    exact = Encoder(
        text, chat.special_tokens, _search(chat.special_tokens), None, is_control, max(map(len, vocabulary))
    )
    if not try_fast:
        return exact
    try:
        fast = exact._replace(fast=fastokens.Tokenizer.from_json_str(text.to_str()))
    except ValueError:
        return exact  # it does not know this kind
    return fast if _agree(fast) else exact


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
    return list(encoder.fast.encode(text, add_special_tokens=False, split_special_tokens=True).ids)


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
        sum(chunk.special is not None for chunk in _chunks(encoder, shape)),
        asked_until,
    )


def run(encoder: Encoder, made: Program, messages: Sequence[Mapping[str, Any]]) -> Encoded:
    """The tokens of a plain conversation, by the program of its shape: encoded in one go, if no message holds the
    characters of a control token, and else step by step."""
    assert encoder.fast is not None
    text = "".join([part if isinstance(part, str) else messages[part]["content"] for part in made.parts])
    ids = np.frombuffer(encoder.fast.encode_batch_flat([text], add_special_tokens=False)[0], dtype=np.int32)
    at = np.flatnonzero(encoder.is_control[ids])
    if len(at) != made.controls:
        return _by_steps(encoder, made, messages)
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
                chunks.append(_Chunk(encoder.control[part], [piece], index))
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


def _search(tokens: Iterable[str]) -> Search:
    """A search for tokens, the longest first, in a group: splitting by its pattern keeps them."""
    ordered = sorted(tokens, key=len, reverse=True)
    pattern = "(" + "|".join(map(re.escape, ordered)) + ")" if ordered else r"((?!))"  # which nothing matches
    return Search(os.path.commonprefix(ordered), re.compile(pattern))  # noqa: RUF071  # of texts, not of paths


def _agree(encoder: Encoder) -> bool:
    """Whether the faster way gives the tokenizer's own tokens, on trial texts and a part of its vocabulary."""
    size = encoder.text.get_vocab_size(with_added_tokens=False)
    words = [encoder.text.decode([token]) for token in range(0, size, max(1, size // VOCABULARY_TRIED))]
    texts = [*TRIALS, *PROBES, " ".join(words), "".join(words), *words, *encoder.control]
    return all(encode_text(encoder, text) == encoder.text.encode(text, add_special_tokens=False).ids for text in texts)
