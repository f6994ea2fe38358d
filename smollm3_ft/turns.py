"""What a column of a row holds, taken as it stands or refused: texts, messages, tool calls, lists."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
# {"role": system, user, assistant or tool; "content": text, "" only beside "tool_calls"}; of the assistant perhaps
# "tool_calls": [{"name", "arguments"}, ...], "thinking", and "trained": False, of a tool "name".
Message = dict[str, Any]

CALL = "function_call"  # ShareGPT's role for a turn that is a call and nothing else
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "ai", "bot", CALL), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), "tool"),
}
THOUGHTS = ("reasoning_content", "thinking", "reasoning")


class BadRow(Exception):
    """A row that cannot be used: a reason that is counted, and the detail shown beside its line."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = detail.encode("utf-8", "backslashreplace").decode()  # half a character can be in a row, not in a file
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def messages(row: Row, column: str) -> list[Message]:
    """A column that is a list of messages."""
    first, *rest = listed(row, column)
    if rest and _is_empty_system(first):  # says nothing: nothing is lost with it
        return [_message(turn) for turn in rest]
    return [_message(first), *map(_message, rest)]


def said(row: Row, column: str, role: str) -> list[Message]:
    """A column that is either one text, of that role, or a list of messages."""
    value = row.get(column)
    if isinstance(value, str) and not (value.startswith("[") and _are_messages(from_json(value))):
        return [{"role": role, "content": text(value, column)}]
    if not isinstance(value, (str, list)):
        raise BadRow("not_text", f"{column} is {shown(value)}")
    return messages(row, column)


def listed(row: Row, column: str) -> list[Any]:
    """A column that is a list, and not an empty one."""
    value = from_json(row.get(column))
    if not isinstance(value, list) or not value:
        raise BadRow("no_messages", f"{column} is {shown(value)}")
    return value


def text(value: Any, name: str) -> str:
    """A value that is text, and not an empty one."""
    if not isinstance(value, str):
        raise BadRow("not_text", f"{name} is {shown(value)}")
    if not value or value.isspace():
        raise BadRow("empty", f"{name} is empty")
    return value


def optional(row: Row, columns: tuple[str, ...]) -> str:
    """The text of the first of the columns that has any; "" where none does."""
    for column in columns:
        value = row.get(column)
        if value is not None and not (isinstance(value, str) and not value.strip()):
            return text(value, column)
    return ""


def truth(row: Row, column: str) -> bool:
    """A column that says yes or no, in JSON's way or as tables of text have it."""
    value = str(row.get(column)).lower()
    if value not in ("true", "false", "1", "0"):
        raise BadRow("not_boolean", f"{column} is {shown(row.get(column))}")
    return value in ("true", "1")


def from_json(value: Any) -> Any:
    """What a JSON text says, since tables of text have lists so; any other value as it is, as is a text of which
    something would be lost."""
    if not isinstance(value, str):
        return value
    try:
        return WHOLE.decode(value)
    except (ValueError, RecursionError):
        return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that can be held")
    return number


WHOLE = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_number)


def shown(value: Any) -> str:
    """The start of a value; of a huge or deep one, no more is written out."""
    pieces = json.JSONEncoder(ensure_ascii=False, default=str, skipkeys=True).iterencode(value)
    start = "".join(itertools.islice(pieces, 61))
    return start if len(start) <= 60 else start[:57] + "..."


def _are_messages(value: Any) -> bool:
    # An answer may be JSON itself: only what cannot be anything else is taken for exported messages.
    turns = value if isinstance(value, list) else []
    return bool(turns) and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns)


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise BadRow("bad_message", f"a turn is {shown(turn)}")
    named, saying = ("from", "value") if turn.get("from") is not None else ("role", "content")
    name, content = turn.get(named), turn.get(saying)
    if not isinstance(name, str):
        raise BadRow("not_text", f"{named} is {shown(name)}")
    role = ROLES.get(name)
    if role is None:
        raise BadRow("unknown_role", f"{named} is {shown(name)}")
    if name == CALL:
        return {"role": role, "content": "", "tool_calls": _calls(content) or [_call(content)]}
    if len(turn) == 2 and isinstance(content, str) and content and not content.isspace():
        return {"role": role, "content": content}
    return _with_all(turn, role, content, saying)


def _is_empty_system(turn: Any) -> bool:
    if not isinstance(turn, dict) or ROLES.get(str(turn.get("from") or turn.get("role"))) != "system":
        return False
    content = turn.get("value") if turn.get("from") is not None else turn.get("content")
    return content is None or (isinstance(content, str) and not content.strip())


def _with_all(turn: Row, role: str, content: Any, saying: str) -> Message:
    """A message with what it may have beside its text. Other keys of a message say nothing to a model."""
    calls = _calls(turn.get("tool_calls")) or _calls(turn.get("function_call"))
    if isinstance(content, list):  # OpenAI's parts adjoin: nothing comes between them that the row does not say
        content = "".join(map(_part, content))
    is_bare = (bool(calls) or role == "tool") and (content is None or content == "")  # a tool may have nothing to say
    message: Message = {"role": role, "content": "" if is_bare else text(content, saying)}
    if calls:
        message["tool_calls"] = calls
    if thinking := optional(turn, THOUGHTS):
        message["thinking"] = thinking
    if role == "assistant" and _is_untrained(turn):
        message["trained"] = False
    if role != "assistant" and len(message) > 2:
        raise BadRow("bad_message", f"a turn of the {role} thinks or calls a tool: {shown(turn)}")
    if role == "tool" and (name := optional(turn, ("name",))):
        message["name"] = name
    return message


def _is_untrained(turn: Row) -> bool:
    """Whether a turn is given to be read only: OpenAI's weight 0, or others' flag."""
    return turn.get("weight") in (0, "0") or turn.get("train") is False or turn.get("training") is False


def _part(part: Any) -> str:
    value = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
    if not isinstance(value, str):
        raise BadRow("not_text", f"a part of the content is {shown(part)}")
    return value


def _calls(value: Any) -> list[Message]:
    value = from_json(value)
    return [_call(call) for call in (value if isinstance(value, list) else [value])] if value else []


def _call(call: Any) -> Message:
    """OpenAI's {"function": {"name", "arguments"}}, or without that wrapping; arguments in JSON text are parsed."""
    given = call.get("function") or call if isinstance(call, dict) else None
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not given["name"].strip():
        raise BadRow("bad_tool_call", f"a tool call is {shown(call)}")
    arguments = given.get("arguments")
    if arguments is not None and not isinstance(arguments, (dict, str)):
        raise BadRow("bad_tool_call", f"the arguments of {shown(given['name'])} are {shown(arguments)}")
    meant = {} if arguments is None else from_json(arguments)
    return {"name": given["name"], "arguments": meant if isinstance(meant, dict) else arguments}
