"""One row of data, in a format people use, as chat messages: `FORMATS[name](row) -> messages`.

A new format is one function and one entry. A function raises BadRow for a row that has its columns but not their sense.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]
Message = dict[str, str]


class BadRow(Exception):
    """A row that cannot be used: a reason that is counted, and the detail shown beside its line."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = detail.encode("utf-8", "backslashreplace").decode()  # half a character can be in a row, not in a file
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def messages(row: Row) -> list[Message]:
    """OpenAI style: {"messages": [{"role", "content"}, ...]}."""
    return [_message(turn, "role", "content") for turn in _turns(row, "messages")]


def conversations(row: Row) -> list[Message]:
    """ShareGPT style: {"conversations": [{"from", "value"}, ...]}."""
    names = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
    found = [_message(turn, "from", "value") for turn in _turns(row, "conversations")]
    for message in found:
        if message["role"] not in names:
            raise BadRow("unknown_role", f"from is {message['role']!r}")
    return [{"role": names[m["role"]], "content": m["content"]} for m in found]


def prompt_completion(row: Row) -> list[Message]:
    """{"prompt", "completion"}, both text."""
    return _pair(_text(row, "prompt"), _text(row, "completion"))


def alpaca(row: Row) -> list[Message]:
    """{"instruction", "output"} and an optional "input", which follows the instruction after a blank line."""
    given = row.get("input")
    extra = _text(row, "input") if given not in (None, "") else ""
    instruction = _text(row, "instruction")
    return _pair(f"{instruction}\n\n{extra}" if extra else instruction, _text(row, "output"))


def question_answer(row: Row) -> list[Message]:
    """{"question", "answer"}, both text."""
    return _pair(_text(row, "question"), _text(row, "answer"))


FORMATS: dict[str, Callable[[Row], list[Message]]] = {
    "messages": messages,
    "conversations": conversations,
    "prompt_completion": prompt_completion,
    "alpaca": alpaca,
    "question_answer": question_answer,
}

# The columns by which a row's format is known, the most telling first.
COLUMNS = {
    "messages": {"messages"},
    "conversations": {"conversations"},
    "prompt_completion": {"prompt", "completion"},
    "alpaca": {"instruction", "output"},
    "question_answer": {"question", "answer"},
}


def detect(row: Row) -> str:
    """The format of a row, by its columns. Raises BadRow for one that has no known format's columns."""
    for name, columns in COLUMNS.items():
        if all(row.get(column) is not None for column in columns):
            return name
    raise BadRow("unknown_format", f"columns are {', '.join(map(str, row)) or 'none'}")


def _turns(row: Row, column: str) -> list[Row]:
    turns = row.get(column)
    if not isinstance(turns, list) or not turns:
        raise BadRow("no_messages", f"{column} is {_shown(turns)}")
    return turns


def _message(turn: Any, role: str, content: str) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRow("bad_message", f"a turn is {_shown(turn)}")
    if turn.get("tool_calls"):
        raise BadRow("tool_calls", "tool calls are not built yet")
    return {"role": _text(turn, role), "content": _text(turn, content)}


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise BadRow("not_text", f"{column} is {_shown(value)}")
    if not value.strip():
        raise BadRow("empty", f"{column} is empty")
    return value


def _pair(prompt: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
