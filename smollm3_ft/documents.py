"""What a row asks to be trained on → its documents: tokens, which are trained on, and no more of them than may be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smollm3_ft import conversations, encoding, rendering
from smollm3_ft.chat import Chat
from smollm3_ft.config import Data
from smollm3_ft.conversations import Asked, Note
from smollm3_ft.encoding import Encoded, Encoder, Program
from smollm3_ft.errors import ConfigError, DataError, Problem
from smollm3_ft.formats import KINDS, BadRow
from smollm3_ft.reading import Line
from smollm3_ft.rendering import Question

# So many of the first rows, and one of so many after, are encoded the slow and certain way too.
FIRST_TRIED, ONE_TRIED_OF = 16, 256


class Unequal(Exception):
    """The fast way did not give what the certain way gives."""


class Work(NamedTuple):
    """What a core needs to prepare rows. `method` is None where rows are judged by their format alone."""

    data: Data
    method: str | None
    chat: Chat
    encoder: Encoder
    programs: dict[tuple[Any, ...], Program | None]
    harmless: dict[tuple[Any, ...], bool]
    seen: Iterator[int]
    ends_text: tuple[int, ...]


class Document(NamedTuple):
    """Tokens, 1 where they are trained on, and where the last answer begins (-1: cut off, or none)."""

    ids: npt.NDArray[np.int32]
    mask: npt.NDArray[np.int8]
    answer: int


def begin(data: Data, method: str | None, chat: Chat, fast: bool) -> Work:
    """Load the encoder. Raises ConfigError where a conversation's tokens are not those of its parts."""
    if data.system_prompt is not None:
        try:
            conversations.check_text(data.system_prompt)
        except BadRow as bad:
            raise ConfigError(Problem("data.system_prompt", bad.detail, "leave it out of the prompt")) from None
    encoder = encoding.load(chat, fast)
    end = chat.tokenizer.token_to_id(chat.variables.get("eos_token", ""))
    work = Work(data, method, chat, encoder, {}, {}, itertools.count(), () if end is None else (end,))
    turns = [{"role": "user", "content": "One, two?"}, {"role": "assistant", "content": "Three."}]
    try:
        rendered = rendering.exactly(chat, Question(turns))
    except BadRow as bad:
        what = f"its chat template cannot serve: {bad.detail}"
        raise ConfigError(Problem("model.name", what, "name an instruction-tuned model, such as SmolLM3")) from None
    whole = chat.tokenizer.encode(rendered.text, add_special_tokens=False).ids
    if encoding.encode(encoder, rendered).ids.tolist() != whole:
        what = "its tokenizer does not encode a conversation as the sum of its turns"
        raise ConfigError(Problem("model.name", what, "name a model with a byte-level tokenizer, such as SmolLM3"))
    return work


def of_row(work: Work, asked: Asked, line: Line) -> tuple[list[Document], Note]:
    """The documents of a row, `max_length` kept to, and what is noted. Raises BadRow where it is dropped."""
    notes = Note(0)
    found: list[Document] = []
    if asked.text is not None:
        if _holds_special(work, asked.text):
            notes |= Note.SPECIAL_TOKEN_TEXT
        found = [_text(work, asked.text)]
    for question in asked.questions:
        _check_size(work, question)
        if any(_holds_special(work, text) for text in rendering.told(question)):
            notes |= Note.SPECIAL_TOKEN_TEXT
        encoded, repaired = _encode(work, question)
        notes |= Note.TOOLS_AS_TEXT if repaired else Note(0)
        found.append(_document(work, question, encoded, KINDS[asked.format]))
    longest = max(len(document.ids) for document in found)
    if longest > work.data.max_length:
        found, more = _shortened(work, asked, found, longest, line)
        notes |= more
    if not all(document.mask.any() for document in found):
        raise BadRow("no_trained_token", "no token of it would be trained on")
    return found, notes


def _holds_special(work: Work, text: str) -> bool:
    """Whether a text holds the characters of a control token, which are text in it."""
    return work.encoder.special.is_in(text)


def _encode(work: Work, question: Question) -> tuple[Encoded, bool]:
    """A conversation's tokens, and whether its tools had to become text."""
    places = rendering.sought_in(work.chat, question) if work.encoder.fast is not None else None
    if places is not None:
        shape = rendering.shape_of(question)
        if shape not in work.programs:
            layout = rendering.layout(work.chat, question)
            work.programs[shape] = encoding.program(work.encoder, layout) if layout is not None else None
        program = work.programs[shape] if all(_is_harmless(work, question, shape, place) for place in places) else None
        if program is not None:
            encoded = encoding.run(work.encoder, program, question.messages)
            number = next(work.seen)
            tried = number < FIRST_TRIED or number % ONE_TRIED_OF == 0
            if tried and len(encoded.ids) <= work.data.max_length:  # a row of 50 MB would take a minute
                _try(work, question, encoded)
            return encoded, False
    rendered, repaired = conversations.render(work.chat, question)
    return encoding.encode(work.encoder, rendered), repaired


def _is_harmless(work: Work, question: Question, shape: tuple[Any, ...], place: tuple[int, str]) -> bool:
    key = (*shape, *place)
    if key not in work.harmless:
        work.harmless[key] = rendering.is_harmless(work.chat, question, *place)
    return work.harmless[key]


def _try(work: Work, question: Question, encoded: Encoded) -> None:
    try:
        certain = encoding.encode(work.encoder, rendering.exactly(work.chat, question))
    except BadRow:
        raise Unequal from None  # it would be dropped here, and kept wherever it is not tried
    same = np.array_equal(certain.ids, encoded.ids) and np.array_equal(certain.answers, encoded.answers)
    if not same or certain.asked_until != encoded.asked_until:
        raise Unequal


def _document(work: Work, question: Question, encoded: Encoded, kind: str) -> Document:
    """A conversation's tokens with their mask. What is preferred, judged or ranked is the last answer."""
    loss_on = work.data.loss_on if kind == "conversation" else "last"
    answers = encoded.answers
    if loss_on == "all":
        mask = np.ones(len(answers), dtype=np.int8)
    elif loss_on == "last":
        mask = ((answers == answers.max(initial=0)) & (answers >= 0)).astype(np.int8)
    else:
        mask = (answers >= 0).astype(np.int8)
    if any("trained" in message for message in question.messages):
        mask[np.isin(answers, _untrained(question, answers))] = 0
    mask[:1] = 0  # nothing comes before the first token that could predict it
    return Document(encoded.ids, mask, encoded.asked_until)


def _untrained(question: Question, answers: npt.NDArray[np.int32]) -> list[int]:
    """The answers that the row itself keeps out of the loss."""
    said = [message for message in question.messages if message["role"] == "assistant"]
    found = [index for index, message in enumerate(said) if message.get("trained") is False]
    if found and answers.max(initial=-1) + 1 != len(said):
        raise BadRow("unclear_mask", "some answers are not to be trained on, and the template does not tell them apart")
    return found


def _check_size(work: Work, question: Question) -> None:
    """Raise BadRow for a conversation of so many characters that it need not be encoded to be known as too long."""
    fewest = sum(len(message["content"]) for message in question.messages) // work.encoder.longest
    if fewest > work.data.max_length and work.data.over_length == "drop":
        raise BadRow("over_length", f"more than {fewest} tokens, data.max_length is {work.data.max_length}")


def _text(work: Work, text: str) -> Document:
    """Plain text, all of it trained on, and the token that ends it."""
    ids = np.array([*encoding.encode_text(work.encoder, text), *work.ends_text], dtype=np.int32)
    mask = np.ones(len(ids), dtype=np.int8)
    mask[:1] = 0
    return Document(ids, mask, -1)


def _shortened(
    work: Work, asked: Asked, found: list[Document], longest: int, line: Line
) -> tuple[list[Document], Note]:
    """What `over_length` makes of a row that is too long."""
    limit = work.data.max_length
    too_long = BadRow("over_length", f"{longest} tokens, data.max_length is {limit}")
    match work.data.over_length:
        case "error":
            remedy = "raise it, or set data.over_length=drop"
            raise DataError(f"{line.place}:{line.number} has {too_long.detail}", remedy)
        case "truncate":
            cut = [_cut(document, limit) for document in found]
            if KINDS[asked.format] == "pair" and np.array_equal(cut[0].ids, cut[1].ids):
                raise BadRow("over_length", f"{too_long.detail}, and what differs comes after that")
            return cut, Note.CUT
        case "split" if asked.text is not None:
            return _cut_up(found[0], limit), Note.SPLIT
        case "split" if KINDS[asked.format] == "conversation":
            return _split_at_turns(work, asked, too_long)
    raise too_long


def _cut(document: Document, limit: int) -> Document:
    if len(document.ids) <= limit:
        return document
    return Document(document.ids[:limit], document.mask[:limit], -1)


def _cut_up(document: Document, limit: int) -> list[Document]:
    """Plain text in pieces; the first token of each has nothing before it to be predicted from."""
    size = len(document.ids)
    ends = [*range(limit, size, limit), size]
    if size % limit == 1:
        ends[-2] -= 1  # a token by itself would be trained on in no piece
    pieces = []
    for at, end in itertools.pairwise([0, *ends]):
        mask = document.mask[at:end].copy()
        mask[:1] = 0
        pieces.append(Document(document.ids[at:end], mask, -1))
    return pieces


def _split_at_turns(work: Work, asked: Asked, too_long: BadRow) -> tuple[list[Document], Note]:
    """A long conversation as several that begin with a user's turn, each with the system message.

    An exchange that is too long by itself is left out, and the row counted as cut.
    """
    (question,) = asked.questions
    messages = list(question.messages)
    system = messages[:1] if messages[0]["role"] == "system" else []
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    exchanges = [messages[at:end] for at, end in itertools.pairwise([*starts, len(messages)])]
    found: list[Document] = []
    notes = Note.SPLIT
    held: list[Any] = []
    last: Document | None = None
    for exchange in exchanges:
        for base in ([*held, *exchange], exchange):
            part = question._replace(messages=[*system, *base])
            encoded, _ = _encode(work, part)
            fits = len(encoded.ids) <= work.data.max_length
            if fits or not held:
                break
            if last is not None:
                found.append(last)
            held, last = [], None
        if fits:
            held, last = list(base), _document(work, part, encoded, "conversation")
        else:
            notes |= Note.CUT
    if last is not None:
        found.append(last)
    if not found:
        raise too_long
    return found, notes
