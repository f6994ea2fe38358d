"""A row as the conversations that are trained on: its turns checked, its thinking and its tools settled."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from enum import IntFlag
from typing import Any, NamedTuple

from smollm3_ft import chat as chats
from smollm3_ft import rendering
from smollm3_ft.chat import Chat
from smollm3_ft.config import Data
from smollm3_ft.formats import FORMATS, KINDS, USABLE, BadRow, Example, Message, Row, detect
from smollm3_ft.rendering import Question

THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
# SmolLM3's switches: each a word of the system message.
SWITCH = re.compile(r"(?:(?<=\s)|^)/(no_)?think(?=\s|$)")
SWITCHES = ("/think", "/no_think")


class Note(IntFlag):
    """What is worth counting of a row that is kept."""

    SPECIAL_TOKEN_TEXT = 1
    TOOLS_AS_TEXT = 2
    SYSTEM_PROMPT_ADDED = 4
    THOUGHTS_REMOVED = 8
    CUT = 16
    SPLIT = 32
    THINKING = 64
    UNTRAINED_TURNS = 128


class Asked(NamedTuple):
    """A usable row: its format, its conversations (or plain text), and what is noted of it."""

    format: str
    questions: tuple[Question, ...]
    text: str | None
    notes: Note
    label: bool | None = None


def read(row: Row, columns: Mapping[str, str], set_format: str, data: Data, chat: Chat, method: str | None) -> Asked:
    """What a row asks to be trained on. Raises BadRow where any of it would not be trained as it stands."""
    named = _named(row, columns) if columns else row
    _check_flags(named)
    name = detect(named) if set_format == "auto" else set_format
    example = FORMATS[name](named)
    if method is not None and KINDS[name] not in USABLE[method]:
        raise BadRow("unused_by_method", f"train.method={method} has no use for rows of the format {name}")
    if example.text is not None:
        check_text(example.text)
        return Asked(name, (), example.text, Note(0))
    asked = [_question(messages, example, data, chat) for messages in example.conversations]
    notes = Note(0)
    for _, note in asked:
        notes |= note
    return Asked(name, tuple(question for question, _ in asked), None, notes, example.label)


def _named(row: Row, columns: Mapping[str, str]) -> Row:
    """The row by our names. A column that is named goes before one that has the name by itself."""
    others = {column: value for column, value in row.items() if column not in columns}
    return {**others, **{name: row[column] for column, name in columns.items() if column in row}}


def _check_flags(row: Row) -> None:
    """Datasets mark entries that their makers found bad."""
    for column in ("bad_entry", "bad_prompt_detected", "bad_response_detected"):
        if row.get(column) in (True, 1, "true", "True", "1"):
            raise BadRow("flagged_bad", f"{column} is {row[column]!r}")


def _question(messages: list[Message], example: Example, data: Data, chat: Chat) -> tuple[Question, Note]:
    check_turns(messages)
    for message in messages:
        check_text(message["content"])
        if len(message) > 2:  # thoughts, calls, a tool's name
            check_text(chats.as_json(message))
    if example.tools or example.python_tools:
        check_text(chats.as_json([example.tools, example.python_tools]))
    messages = [_as_templates_have_it(message) for message in messages]
    notes = Note(0)
    if data.system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": data.system_prompt}, *messages]
        notes |= Note.SYSTEM_PROMPT_ADDED
    switched, messages = _switch(messages, chat)
    messages = [_with_thought(message) for message in messages]
    said = example.thinking if example.thinking is not None else switched
    thinking = data.thinking == "on" if data.thinking != "auto" else said if said is not None else thinks(messages)
    if any("trained" in message for message in messages):
        notes |= Note.UNTRAINED_TURNS
    if not thinking:
        if data.thinking == "auto" and chat.writes_empty_thought and thinks(messages):
            raise BadRow("unasked_thought", "the row is said to be without thinking, and an answer thinks")
        thought = data.thinking == "off" and thinks(messages)
        given, messages = messages, [_without_thought(message, data.thinking == "off", chat) for message in messages]
        if thought and messages != given:
            notes |= Note.THOUGHTS_REMOVED
    else:
        notes |= Note.THINKING
    return Question(messages, thinking, example.tools, example.python_tools), notes


def _as_templates_have_it(message: Message) -> Message:
    calls = [{"type": "function", "function": call} for call in message.get("tool_calls", ())]
    return {**message, "tool_calls": calls} if calls else message


def check_turns(messages: Sequence[Message]) -> None:
    """Raise BadRow unless user and assistant take turns, behind a system message or none, the assistant last."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns:
        raise BadRow("empty", "there is no turn but the system's" if roles else "there is no turn")
    if "user" not in turns or "assistant" not in turns:
        raise BadRow("one_sided", f"only {' and '.join(dict.fromkeys(turns))} speaks")
    before = ""
    for role in turns:
        if role not in FOLLOWS[before]:
            raise BadRow("roles_out_of_order", f"{role} after {before or 'nothing'}: roles are {', '.join(roles[:12])}")
        before = role
    if before != "assistant":
        raise BadRow("roles_out_of_order", f"{before} has the last word: roles are {', '.join(roles[-12:])}")


# Who may speak after whom; "" is the beginning.
FOLLOWS = {"": ("user",), "user": ("assistant",), "assistant": ("user", "tool"), "tool": ("tool", "assistant")}


def check_text(text: str) -> None:
    """Raise BadRow where a text is none."""
    if not text.isascii():
        for mark in chats.MARKS:
            if mark in text:
                raise BadRow("noncharacter", f"the text contains U+{ord(mark):04X}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRow("lone_surrogate", "the text contains half of a character") from None


def thinks(messages: Sequence[Message]) -> bool:
    """Whether any answer holds a thought that is not empty."""
    answers = (message["content"] for message in messages if message["role"] == "assistant")
    return any(
        "<think>" in answer and any(thought.strip() for thought in THOUGHT.findall(answer)) for answer in answers
    )


def _switch(messages: list[Message], chat: Chat) -> tuple[bool | None, list[Message]]:
    """SmolLM3's switch in a system message, for a template that knows it: what it says, and the message without it."""
    first = messages[0]
    if first["role"] != "system" or "think" not in first["content"] or not _knows_switches(chat):
        return None, messages
    found = list(SWITCH.finditer(first["content"]))
    if not found:
        return None, messages
    rest = SWITCH.sub("", first["content"]).strip()
    thinking = all(match[1] is None for match in found)  # as in the template, /no_think wins
    return thinking, [{**first, "content": rest}, *messages[1:]] if rest else messages[1:]


def _knows_switches(chat: Chat) -> bool:
    return all(switch in chat.sought.inside for switch in SWITCHES)


def _with_thought(message: Message) -> Message:
    """A thought of its own column goes where SmolLM3 has it: before the answer, in tags."""
    if "thinking" not in message:
        return message
    rest = {key: value for key, value in message.items() if key != "thinking"}
    there = THOUGHT.match(message["content"])
    if there is not None and there[1].strip() == message["thinking"].strip():
        return rest  # some datasets have it in both places
    return {**rest, "content": f"<think>\n{message['thinking'].strip()}\n</think>\n{message['content']}"}


def _without_thought(message: Message, removes: bool, chat: Chat) -> Message:
    """An answer without its thoughts where they are not wanted, or without an empty one that the template writes."""
    if message["role"] != "assistant" or "<think>" not in message["content"]:
        return message
    thought = THOUGHT.match(message["content"])
    if thought is None or not (removes or (not thought[1].strip() and chat.writes_empty_thought)):
        return message
    rest = message["content"][thought.end() :]
    if not rest.strip() and "tool_calls" not in message:
        raise BadRow("empty", "an answer is nothing but a thought")
    return {**message, "content": rest}


def render(chat: Chat, asked: Question) -> tuple[rendering.Rendered, bool]:
    """The conversation as the template writes it; where that loses tools or calls, with those as text (and True)."""
    try:
        return rendering.exactly(chat, asked), False
    except BadRow as lost:
        tools = (*asked.tools, *asked.python_tools)
        if not tools and not any(m["role"] == "tool" or "tool_calls" in m for m in asked.messages):
            raise
        first = lost
    calls = asked._replace(messages=[_calls_as_text(message) for message in asked.messages])
    turns = calls._replace(messages=_results_as_text(calls.messages))
    for repaired in (calls, turns, turns._replace(messages=_tools_as_text(turns), tools=(), python_tools=())):
        try:
            return rendering.exactly(chat, repaired), True
        except BadRow:
            continue
    raise first


def _calls_as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tool calls written into the answer, as SmolLM3 writes them."""
    if "tool_calls" not in message:
        return message
    written = [f"<tool_call>\n{chats.as_json(call['function'])}\n</tool_call>" for call in message["tool_calls"]]
    content = "\n".join([message["content"], *written] if message["content"] else written)
    return {"role": message["role"], "content": content}


def _results_as_text(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What tools gave, as a turn of the user; of several in a row, as one."""
    found: list[Mapping[str, Any]] = []
    for message in messages:
        if message["role"] != "tool":
            found.append(message)
            continue
        written = f"<tool_response>\n{message['content']}\n</tool_response>"
        if found[-1]["role"] == "user":
            written = f"{found.pop()['content']}\n{written}"
        found.append({"role": "user", "content": written})
    return found


def _tools_as_text(asked: Question) -> list[Mapping[str, Any]]:
    """The tools' schemas in the system message."""
    tools = (*asked.tools, *asked.python_tools)
    if not tools:
        return list(asked.messages)
    listed = "\n".join(tool if isinstance(tool, str) else chats.as_json(tool) for tool in tools)
    text = f"You may call these functions:\n<tools>\n{listed}\n</tools>"
    first, *rest = asked.messages
    if first["role"] == "system":
        return [{"role": "system", "content": f"{first['content']}\n\n{text}"}, *rest]
    return [{"role": "system", "content": text}, first, *rest]


def digest(asked: Asked) -> bytes:
    """Of what a row says: 16 bytes, the same for rows alike but for the ends, line endings and Unicode's ways to write
    a letter; indentation may mean something."""
    told = hashlib.blake2b(digest_size=16)
    for question in asked.questions:
        told.update(b"\x00" if question.thinking else b"\x01")
        for message in question.messages:
            text = _normal(message["content"]).encode()
            trained = "\x06" if "trained" in message else "\x03"
            told.update(f"{message['role']}\x02{len(text)}{trained}".encode() + text)
            if "tool_calls" in message:
                told.update(chats.as_json(message["tool_calls"], sort_keys=True).encode())
        if question.tools or question.python_tools:
            told.update(chats.as_json([question.tools, question.python_tools], sort_keys=True).encode())
    if asked.text is not None:
        told.update(_normal(asked.text).encode())
    if asked.label is not None:
        told.update(b"\x04" if asked.label else b"\x05")
    return told.digest()


def _normal(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return text.replace("\r\n", "\n").strip()
