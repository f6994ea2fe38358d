"""A row as the conversation that is trained on: its format found, its turns checked, its text rendered and proved."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import NamedTuple

import jinja2

from smollm3_ft import chat as chats
from smollm3_ft.chat import Chat, Rendered
from smollm3_ft.config import Data
from smollm3_ft.formats import FORMATS, BadRow, Message, Row, detect
from smollm3_ft.sources import SourcePlan


class Conversation(NamedTuple):
    """A usable row: the format it was in, a digest of what it says, and its rendered text."""

    format: str
    digest: bytes
    rendered: Rendered


def read(row: Row, plan: SourcePlan, data: Data, chat: Chat) -> Conversation:
    """The conversation in a row. Raises BadRow where any of it would not be trained as it stands."""
    named = {(plan.columns or {}).get(column, column): value for column, value in row.items()}
    name = detect(named) if plan.format == "auto" else plan.format
    messages = FORMATS[name](named)
    _check_turns(messages)
    for message in messages:
        check_text(message["content"], chat)
    if data.system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": data.system_prompt}, *messages]
    return Conversation(name, _digest(messages), _render(messages, data, chat))


def thinks(messages: list[Message], setting: str) -> bool:
    """Whether the row is rendered in thinking mode: as set, or (auto) because its answers think."""
    if setting != "auto":
        return setting == "on"
    return any("<think>" in m["content"] for m in messages if m["role"] == "assistant")


def _check_turns(messages: list[Message]) -> None:
    roles = [message["role"] for message in messages]
    unknown = [role for role in roles if role not in ("system", "user", "assistant")]
    if unknown:
        raise BadRow("unknown_role", f"the role {unknown[0]!r} is not built yet")
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise BadRow("roles_out_of_order", f"roles are {', '.join(roles[:12])}")


def check_text(text: str, chat: Chat) -> None:
    """Raise BadRow where a text would not become the tokens it says."""
    for token in chat.special_tokens:
        if token in text:
            raise BadRow("special_token_text", f"the text contains {token}, which would become a control token")
    if chats.OPENING in text or chats.CLOSING in text:
        raise BadRow("noncharacter", "the text contains U+FDD0 or U+FDD1")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRow("lone_surrogate", "the text contains half of a character")


def _digest(messages: list[Message]) -> bytes:
    # Alike but for the ends, line endings and Unicode's ways to write a letter; indentation may mean something.
    texts = (unicodedata.normalize("NFC", m["content"]).replace("\r\n", "\n").strip() for m in messages)
    said = [(m["role"], text) for m, text in zip(messages, texts, strict=True)]
    return hashlib.blake2b(repr(said).encode(), digest_size=16).digest()


def _render(messages: list[Message], data: Data, chat: Chat) -> Rendered:
    try:
        rendered = chats.render(chat, messages, thinks(messages, data.thinking))
    except jinja2.TemplateError as error:
        raise BadRow("template", str(error)) from None
    at = 0
    for message in messages:
        text = message["content"].strip()
        found = rendered.text.find(text, at)
        if found < 0:
            raise BadRow("lost_text", f"the chat template leaves out what the {message['role']} says")
        at = found + len(text)
    return rendered
