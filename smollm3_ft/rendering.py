"""Messages → pieces of rendered text, each known to be the template's or a message's own, and trained on or not.

A template is rendered with marks around every message's text, so that what becomes of it is seen and not guessed: a
text that does not come out as it went in is found. Conversations of one shape (roles, thinking) differ in their texts
alone, so a shape is rendered once and filled; a text that the template might treat in a way of its own is rendered
for itself.
"""

from __future__ import annotations

import bisect
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from smollm3_ft import chat as chats
from smollm3_ft import proof
from smollm3_ft.chat import BEGIN, CLOSING, END, OPENING, Chat
from smollm3_ft.formats import BadRow

# Ways to fill a shape, as unlike as texts are: what comes out beside them must be the same.
PROBES = (
    "{}",
    "第{} «q»?\n\n\t2.5 <b>z</b>  | {{x}}, it's\r\n\n(Ω) `9`",
    "Probe {}: " + "all of 4 words, " * 200 + "end",
)


class Piece(NamedTuple):
    """A part of a rendered conversation.

    `message`: whose text it is, counted among the messages that have any; -1 for the template's own.
    `answer`: which of the assistant's answers it belongs to, -1 for none.
    """

    text: str
    message: int
    answer: int


class Rendered(NamedTuple):
    """A conversation as text: its pieces in order, and the index of the one with which its last answer begins.

    That is where a model goes on when it is asked, behind what the template writes to have it answer; -1 for none.
    """

    pieces: tuple[Piece, ...]
    asked_until: int

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


class Question(NamedTuple):
    """What is rendered: messages, whether they think, and the tools they may call, in JSON and (SmolLM3) in code."""

    messages: Sequence[Mapping[str, Any]]
    thinking: bool = False
    tools: Sequence[Any] = ()
    python_tools: Sequence[Any] = ()


def shape_of(asked: Question) -> tuple[Any, ...]:
    """What conversations have in common that differ in their texts alone."""
    return (asked.thinking, *(message["role"] for message in asked.messages))


def sought_in(chat: Chat, asked: Question) -> list[tuple[int, str]] | None:
    """What the template looks for and finds in texts, each with the index of its message.

    None where a conversation has to be rendered for itself in any case: it has tools, or a text may be stripped.
    """
    if asked.tools or asked.python_tools:
        return None
    found = []
    for index, message in enumerate(asked.messages):
        text = message["content"]
        if len(message) > 2 or not text or text[0].isspace() or text[-1].isspace() or text in chat.sought.whole:
            return None
        for sought in chat.sought.inside:
            if sought in text:
                found.append((index, sought))
    return found


def is_harmless(chat: Chat, asked: Question, index: int, sought: str) -> bool:
    """Whether what the template looks for makes no difference in this message of such a conversation: SmolLM3's
    switches are looked for in the system message, and are a part of "</think>" in every thought."""
    shape = layout(chat, asked)
    messages = [{**message, "content": PROBES[0].replace("{}", str(i))} for i, message in enumerate(asked.messages)]
    messages[index] = {**messages[index], "content": f"a{sought}b {sought} c"}
    try:
        return shape is not None and exactly(chat, asked._replace(messages=messages)) == fill(shape, messages)
    except BadRow:
        return False


def layout(chat: Chat, asked: Question) -> Rendered | None:
    """The shape of a conversation, to be filled with others' texts; None where texts change what is around them."""
    found = []
    for probe in PROBES:
        messages = [{**message, "content": probe.replace("{}", str(i))} for i, message in enumerate(asked.messages)]
        try:
            rendered = exactly(chat, asked._replace(messages=messages))
        except BadRow:
            return None
        own = [piece for piece in rendered.pieces if piece.message >= 0]
        if [piece.text for piece in own] != [message["content"] for message in messages]:
            return None
        found.append(
            Rendered(tuple(p._replace(text="") if p.message >= 0 else p for p in rendered.pieces), rendered.asked_until)
        )
    return found[0] if all(one == found[0] for one in found) else None


def fill(shape: Rendered, messages: Sequence[Mapping[str, Any]]) -> Rendered:
    """A shape with the texts of messages."""
    pieces = (p if p.message < 0 else p._replace(text=messages[p.message]["content"]) for p in shape.pieces)
    return Rendered(tuple(pieces), shape.asked_until)


def exactly(chat: Chat, asked: Question) -> Rendered:
    """A conversation rendered for itself, and every text of it proved to be there."""
    if any(token in text for text in beside(asked) for token in chat.special_tokens):
        raise BadRow("special_token_text", "a tool or a call of one holds a control token's characters")
    marked = _rendered(chat, asked, [_with_marks(message) for message in asked.messages])
    plain = _rendered(chat, asked, asked.messages)
    if chats.without_marks(marked) != chats.without_marks(plain):
        marked = _placed(chat, asked, plain)  # the template looks at how a text begins or ends
    proof.prove(marked, asked.messages, (*asked.tools, *asked.python_tools))
    return _pieces(asked, marked, *_boundaries(chat, asked, marked))


def beside(asked: Question) -> list[str]:
    """What is said beside the messages' texts, as the template gets it: tools, their calls and their names."""
    more = [message for message in asked.messages if len(message) > 2]
    found = [{key: value for key, value in message.items() if key not in ("role", "content")} for message in more]
    return [chats.as_json(value) for value in (*asked.tools, *asked.python_tools, *found)]


def told(asked: Question) -> list[str]:
    """All that is said: the messages' texts, and what is beside them."""
    return [*(message["content"] for message in asked.messages), *beside(asked)]


def _rendered(chat: Chat, asked: Question, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    try:
        return chats.render(chat, messages, asked.thinking, asked.tools, asked.python_tools, **options)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        raise BadRow("template", f"the chat template refuses the row: {error}") from None


def _with_marks(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with marks around its text, inside the white space that a template may strip."""
    text = message["content"]
    core = text.strip()
    if not core:
        return message
    before, _, after = text.partition(core)
    return {**message, "content": f"{before}{BEGIN}{core}{END}{after}"}


def _placed(chat: Chat, asked: Question, plain: str) -> str:
    """The marks put around each text, its place told by one mark in it, where the template does not look."""
    for place in (0.5, 1.0, 0.0):
        messages = [_with_mark(message, place) for message in asked.messages]
        told = _rendered(chat, asked, messages)
        if told.replace(BEGIN, "") == plain:
            return _around(told, plain, asked.messages, place)
    raise BadRow("unclear_text", "the chat template looks into the texts: what becomes of them cannot be seen")


def _with_mark(message: Mapping[str, Any], place: float) -> Mapping[str, Any]:
    text = message["content"]
    core = text.strip()
    if not core:
        return message
    at = text.index(core) + int(len(core) * place)
    return {**message, "content": f"{text[:at]}{BEGIN}{text[at:]}"}


def _around(told: str, plain: str, messages: Sequence[Mapping[str, Any]], place: float) -> str:
    cores = [core for message in messages if (core := message["content"].strip())]
    *parts, _ = told.split(BEGIN)
    begins = [
        length - int(len(core) * place)
        for core, length in zip(cores, itertools.accumulate(map(len, parts)), strict=False)
    ]
    marked = ""
    at = 0
    for core, begin in zip(cores, begins, strict=False):
        marked += f"{plain[at:begin]}{BEGIN}{plain[begin : begin + len(core)]}{END}"
        at = begin + len(core)
    marked += plain[at:] + f"{BEGIN}{END}" * (len(parts) - len(cores))
    if marked.replace(BEGIN, "").replace(END, "") != plain:
        raise BadRow("lost_text", "the chat template writes the messages in another order")
    return marked


def _boundaries(chat: Chat, asked: Question, marked: str) -> tuple[list[tuple[int, int]], int]:
    """In characters of the text without marks: what the assistant says, and where a model is asked for the last answer
    (-1: that cannot be told)."""
    text = chats.without_marks(marked)
    turns = [index for index, message in enumerate(asked.messages) if message["role"] == "assistant"]
    if not turns:
        return [], -1
    unmarked = [] if chat.has_marks else [_span_by_prefix(chat, asked, text, index) for index in turns]
    spans = _marked_spans(marked) if chat.has_marks else unmarked
    prompt = _prefix(chat, asked, turns[-1], add_generation_prompt=True)
    if prompt is not None and text.startswith(prompt):
        return spans, len(prompt)
    return spans, -1


def _marked_spans(marked: str) -> list[tuple[int, int]]:
    spans = []
    length = 0
    for index, part in enumerate(marked.split(OPENING)):
        said, closing, rest = part.partition(CLOSING)
        if index and closing:
            size = len(chats.without_marks(said))
            spans.append((length, length + size))
            length += size + len(chats.without_marks(rest))
        else:
            length += len(chats.without_marks(part))
    return spans


def _prefix(chat: Chat, asked: Question, count: int, **options: Any) -> str | None:
    """The first messages as the template writes them alone; None where it refuses that."""
    try:
        return chats.without_marks(_rendered(chat, asked, asked.messages[:count], **options))
    except BadRow:
        return None


def _span_by_prefix(chat: Chat, asked: Question, text: str, index: int) -> tuple[int, int]:
    """What the assistant says in a message: what is there with it and not without it.

    The method is that of prefixes: the conversation up to the message, ready to be answered, and with the answer,
    must both begin the whole text.
    """
    before = _prefix(chat, asked, index, add_generation_prompt=True)
    after = _prefix(chat, asked, index + 1)
    if before is None or after is None or not (text.startswith(after) and after.startswith(before)):
        what = f"without generation marks, what the assistant says in message {index + 1} cannot be told apart"
        raise BadRow("unclear_mask", f"{what}: the template writes a turn differently when more follow")
    end = max((after.rfind(token) + len(token) for token in chat.special_tokens if token in after), default=0)
    stop = end if end > len(before) and not after[end:].strip() else len(after)  # no more than the end of the turn
    return len(before), stop


def _pieces(asked: Question, marked: str, spans: list[tuple[int, int]], asked_until: int) -> Rendered:
    """The text cut wherever whose it is, or whether it is an answer, changes."""
    own: list[tuple[int, int]] = []
    length = 0
    bare = marked.replace(OPENING, "").replace(CLOSING, "")
    for part in bare.split(BEGIN):
        said, ended, rest = part.partition(END)
        if ended:
            own.append((length, length + len(said)))
        length += len(said) + len(rest)
    text = chats.without_marks(bare)
    answers = _answers(asked, own, spans)
    if asked_until < 0 and answers:
        asked_until = spans[answers.index(answers[-1])][0]
    edges = {edge for pair in (*own, *spans, (0, len(text))) for edge in pair} | {max(0, asked_until)}
    pieces: list[Piece] = []
    begins = -1
    for start, stop in itertools.pairwise(sorted(edges)):
        if start == asked_until:
            begins = len(pieces)
        span = _holder(spans, start)
        pieces.append(Piece(text[start:stop], _holder(own, start), answers[span] if span >= 0 else -1))
    return Rendered(tuple(pieces), begins)


def _answers(asked: Question, own: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[int]:
    """Which answer each span is of: all of them between two texts of others are of one."""
    texts = [message for message in asked.messages if message["content"].strip()]
    others = [at for (at, _), message in zip(own, texts, strict=True) if message["role"] != "assistant"]
    turns = [bisect.bisect_left(others, start) for start, _ in spans]
    number = {turn: index for index, turn in enumerate(dict.fromkeys(turns))}
    return [number[turn] for turn in turns]


def _holder(spans: list[tuple[int, int]], at: int) -> int:
    """The index of the span that holds a place, -1 for none."""
    index = bisect.bisect_right(spans, (at, sys.maxsize)) - 1
    return index if index >= 0 and at < spans[index][1] else -1
