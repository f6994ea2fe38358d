"""Proof that a rendered conversation holds all that the row says: every text, every tool call and every tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smollm3_ft import chat as chats
from smollm3_ft.chat import BEGIN, END
from smollm3_ft.formats import BadRow


def prove(marked: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> None:
    """Raise BadRow unless everything is there, in order. `marked` has marks around every text that is a message's."""
    first, *parts = marked.split(BEGIN)
    cut = [part.partition(END) for part in parts]
    said = [chats.without_marks(text) for text, _, _ in cut]
    texts = [message for message in messages if message["content"].strip()]
    for message, text in zip(texts, [*said, *[""] * len(texts)], strict=False):
        if text != message["content"].strip():
            raise lost(message, text)
    if len(said) > len(texts):
        raise BadRow("repeated_text", "the chat template writes a message twice")
    if tools or any("tool_calls" in message for message in messages):
        _prove_tools([chats.without_marks(part) for part in (first, *(rest for _, _, rest in cut))], messages, tools)


def lost(message: Mapping[str, Any], instead: str) -> BadRow:
    became = f": {instead[:40]!r} is left" if instead else ""
    return BadRow("lost_text", f"the chat template leaves out what the {message['role']} says{became}")


def _prove_tools(between: list[str], messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> None:
    """`between` is what the template itself writes between the texts. A call is beside its message's text, or in the
    place of one, and tools are elsewhere: a text that speaks of them proves neither."""
    of_calls: set[int] = set()
    count = 0  # of the texts so far
    for message in messages:
        has_text = bool(message["content"].strip())
        if "tool_calls" in message:
            own = range(count, count + 1 + has_text)
            of_calls.update(own)
            _prove_calls("\n".join(between[index] for index in own), message["tool_calls"])
        count += has_text
    elsewhere = "\n".join(text for index, text in enumerate(between) if index not in of_calls)
    at = 0
    for tool in tools:
        at = _find(elsewhere, _tool_name(tool), at, "a tool")


def _prove_calls(written: str, calls: Sequence[Mapping[str, Any]]) -> None:
    at = 0
    for call in calls:
        function = call["function"]
        for leaf in (function["name"], *_leaves(function["arguments"])):
            at = _find(written, leaf, at, f"a call of {function['name']}")


def _tool_name(tool: Any) -> str:
    """The name in a tool's schema, or the text of one that is written as text."""
    if not isinstance(tool, Mapping):
        return str(tool)
    return str(tool.get("function", tool).get("name", ""))


def _find(text: str, wanted: Any, at: int, where: str) -> int:
    """The end of a name or value, found from `at` on, as it is or as JSON writes it."""
    ways = {wanted, chats.as_json(wanted)[1:-1]} if isinstance(wanted, str) else {chats.as_json(wanted), str(wanted)}
    places = [(found, way) for way in ways if (found := text.find(way, at)) >= 0]
    if not places:
        raise BadRow("lost_tool_call", f"the chat template leaves out {str(wanted)[:40]!r} of {where}")
    found, way = min(places)
    return found + len(way)


def _leaves(value: Any) -> list[Any]:
    """Every name and plain value in a tool call's arguments, in the order they are written."""
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in (str(key), *_leaves(inner))]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [] if value is None else [value]
