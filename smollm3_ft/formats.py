"""One row of data, in a format people use, as what it says: `FORMATS[name](row) -> Example`.

A new format is one function and its entries in COLUMNS and FORMATS. A function raises BadRow for a row that has its
columns but not their sense. Texts are kept as they stand, white space too. The order of turns is not judged here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from smollm3_ft import turns
from smollm3_ft.turns import BadRow as BadRow
from smollm3_ft.turns import Message as Message
from smollm3_ft.turns import Row as Row


class Example(NamedTuple):
    """What a row says, whatever format it came in."""

    conversations: tuple[list[Message], ...] = ()  # one; of a pair chosen, rejected; of a ranking the best first
    text: str | None = None  # plain text, in place of conversations
    tools: tuple[Any, ...] = ()  # function schemas, as dicts or as the text they were given in
    python_tools: tuple[Any, ...] = ()  # SmolLM3's other kind: called in code, not in JSON
    thinking: bool | None = None  # what the row itself says of its mode
    label: bool | None = None  # whether the answer is a good one, where that is judged


# The columns by which a row's format is known, one of each group, the most telling format first. A single answer is
# more telling than a list of them: a ranking has nothing else.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "preference": (("chosen",), ("rejected",)),
    "kto": (("prompt",), ("completion",), ("label",)),
    "messages": (("messages",),),
    "conversations": (("conversations",),),
    "prompt_completion": (("prompt",), ("completion", "accepted_completion", "response", "chosen")),
    "ranked": (("prompt",), ("completions", "responses", "answers", "outputs")),
    "alpaca": (("instruction",), ("output", "response")),
    "question_answer": (("question",), ("answer", "solution", "response")),
    "user_assistant": (("user",), ("assistant",)),
    "text": (("text",),),
}
SYSTEM = ("system", "system_prompt")
TOOLS = ("tools", "functions")
BESIDES = frozenset((*SYSTEM, *TOOLS, "chat_template_kwargs", "enable_thinking"))
THOUGHTS = ("cot", "chain_of_thought", "reasoning", "thinking", "rationale")


def detect(row: Row) -> str:
    """The format of a row, by its columns that are not null. Raises BadRow for columns of no known format."""
    name = _detect(tuple(column for column, value in row.items() if value is not None))
    if name is None:
        raise BadRow("unknown_format", f"columns are {', '.join(map(str, row)) or 'none'}")
    return name


@lru_cache(maxsize=1024)
def _detect(columns: tuple[str, ...]) -> str | None:
    for name, groups in COLUMNS.items():
        if all(not set(group).isdisjoint(columns) for group in groups):
            return name
    return None


def preference(row: Row) -> Example:
    """{"chosen", "rejected"}, and a "prompt" (Orca: "question") unless they have it; texts, messages or dialogues."""
    asked = _first(row, ("prompt", "question"))
    prompt = _dialogue(row, asked, "user") if row.get(asked) is not None else []
    chosen = _joined(prompt, _dialogue(row, "chosen", "assistant"))
    rejected = _joined(prompt, _dialogue(row, "rejected", "assistant"))
    if _stripped(chosen) == _stripped(rejected):
        raise BadRow("same_answers", f"chosen and rejected are {turns.shown(row.get('chosen'))}")
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    if not any(message["role"] == "user" for message, _ in shared):
        raise BadRow("no_prompt", f"no user's turn comes before chosen, {turns.shown(row.get('chosen'))}")
    return _example(row, chosen, rejected)


def kto(row: Row) -> Example:
    """{"prompt", "completion", "label"}: the label says whether the completion is a good one."""
    label = turns.truth(row, "label")
    said = _joined(turns.said(row, "prompt", "user"), turns.said(row, "completion", "assistant"))
    return _example(row, said)._replace(label=label)


def ranked(row: Row) -> Example:
    """{"prompt"} and a list of texts, the best first."""
    column = _first(row, COLUMNS["ranked"][1])
    prompt = turns.said(row, "prompt", "user")
    texts = [turns.text(output, f"one of {column}") for output in turns.listed(row, column)]
    return _example(row, *([*prompt, {"role": "assistant", "content": output}] for output in texts))


def messages(row: Row) -> Example:
    """OpenAI style: {"messages": [{"role", "content"}, ...]}, with tool calls and tools."""
    return _example(row, turns.messages(row, "messages"))


def conversations(row: Row) -> Example:
    """ShareGPT style: {"conversations": [{"from", "value"}, ...]}."""
    return _example(row, turns.messages(row, "conversations"))


def prompt_completion(row: Row) -> Example:
    """{"prompt", "completion"}, each a text or messages; the completion has other names too."""
    answer = turns.said(row, _first(row, COLUMNS["prompt_completion"][1]), "assistant")
    return _example(row, _thought(row, _joined(turns.said(row, "prompt", "user"), answer)))


def alpaca(row: Row) -> Example:
    """{"instruction", "output"} and an "input" (Dolly: "context"), after a blank line, and "history"."""
    asked = turns.text(row.get("instruction"), "instruction")
    if extra := turns.optional(row, ("input", "context")):
        asked += f"\n\n{extra}"
    return _pair(row, asked, _first(row, COLUMNS["alpaca"][1]), _history(row))


def question_answer(row: Row) -> Example:
    """{"question", "answer"}, both text."""
    return _pair(row, turns.text(row.get("question"), "question"), _first(row, COLUMNS["question_answer"][1]))


def user_assistant(row: Row) -> Example:
    """{"user", "assistant"}, both text."""
    return _pair(row, turns.text(row.get("user"), "user"), "assistant")


def text(row: Row) -> Example:
    """{"text"}: no conversation."""
    return Example(text=turns.text(row.get("text"), "text"))


FORMATS: dict[str, Callable[[Row], Example]] = {
    "preference": preference,
    "kto": kto,
    "messages": messages,
    "conversations": conversations,
    "prompt_completion": prompt_completion,
    "ranked": ranked,
    "alpaca": alpaca,
    "question_answer": question_answer,
    "user_assistant": user_assistant,
    "text": text,
}
KINDS = {
    **dict.fromkeys(FORMATS, "conversation"),
    "preference": "pair",
    "kto": "labelled",
    "ranked": "ranked",
    "text": "text",
}
USABLE = {"sft": ("conversation", "text"), "dpo": ("pair",)}  # the kinds that a method trains on


def _example(row: Row, *said: list[Message]) -> Example:
    if BESIDES.isdisjoint(row):
        return Example(said)
    settings = turns.from_json(row.get("chat_template_kwargs")) or {}  # as smoltalk2 has it
    if not isinstance(settings, dict):
        raise BadRow("bad_tools", f"chat_template_kwargs is {turns.shown(settings)}")
    system, instructions = turns.optional(row, SYSTEM), turns.optional(settings, ("custom_instructions",))
    found = [_system(conversation, system, instructions) for conversation in said]
    tools, in_code = (*_tools(row, TOOLS), *_tools(settings, ("xml_tools",))), _tools(settings, ("python_tools",))
    given = row if row.get("enable_thinking") is not None else settings
    thinking = turns.truth(given, "enable_thinking") if given.get("enable_thinking") is not None else None
    return Example(tuple(found), None, tools, tuple(in_code), thinking)


def _system(conversation: list[Message], column: str, instructions: str) -> list[Message]:
    # Custom instructions give way to a system turn, as in SmolLM3's template; a column that says otherwise is not lost.
    has = conversation[0]["content"] if conversation[0]["role"] == "system" else None
    if has is not None and column and column.strip() != has.strip():
        raise BadRow("bad_message", f"the system column is {turns.shown(column)}, the system turn {turns.shown(has)}")
    system = column or instructions
    return [{"role": "system", "content": system}, *conversation] if system and has is None else conversation


def _tools(row: Row, columns: tuple[str, ...]) -> list[Any]:
    found: list[Any] = []
    for column in columns:
        tools = turns.from_json(row.get(column)) or []
        if not isinstance(tools, list) or not all(tool and isinstance(tool, (dict, str)) for tool in tools):
            raise BadRow("bad_tools", f"{column} is {turns.shown(tools)}")
        found += tools
    return found


def _dialogue(row: Row, column: str, role: str) -> list[Message]:
    """As turns.said, where a text may be a dialogue as in Anthropic's hh-rlhf, a prompt ending in "Assistant:"."""
    value = row.get(column)
    if not isinstance(value, str) or not value.startswith("\n\nHuman:"):
        return turns.said(row, column, role)
    _, *parts = re.split(r"\n\n(Human|Assistant):", value)
    if role == "user" and parts[-2] == "Assistant" and not parts[-1].strip():
        parts = parts[:-2]
    names = {"Human": "user", "Assistant": "assistant"}
    texts = [turns.text(part.removeprefix(" "), column) for part in parts[1::2]]
    return [{"role": names[name], "content": text} for name, text in zip(parts[::2], texts, strict=True)]


def _joined(prompt: list[Message], answer: list[Message]) -> list[Message]:
    """The prompt and then the answer, which may itself begin with the prompt, with its end, or have it inside."""
    if answer[0]["role"] == "assistant":
        return prompt + answer
    before, after = _stripped(prompt), _stripped(answer)
    for start in range(len(prompt)):
        if before[start:] == after[: len(prompt) - start]:
            return prompt[:start] + answer
    if any(after[at : at + len(prompt)] == before for at in range(len(answer))):
        return answer
    return prompt + answer


def _stripped(said: list[Message]) -> list[Message]:
    return [{**message, "content": message["content"].strip()} for message in said]


def _pair(row: Row, asked: str, column: str, before: list[Message] | None = None) -> Example:
    answer = turns.text(row.get(column), column)
    said = [*(before or []), {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return _example(row, _thought(row, said))


def _history(row: Row) -> list[Message]:
    """LLaMA-Factory's earlier exchanges: a list of pairs of texts."""
    exchanges = turns.from_json(row.get("history")) or []
    if not isinstance(exchanges, list) or not all(isinstance(one, list) and len(one) == 2 for one in exchanges):
        raise BadRow("bad_message", f"history is {turns.shown(row.get('history'))}")
    roles = itertools.cycle(("user", "assistant"))
    texts = itertools.chain.from_iterable(exchanges)
    return [{"role": role, "content": turns.text(said, "history")} for role, said in zip(roles, texts, strict=False)]


def _thought(row: Row, conversation: list[Message]) -> list[Message]:
    last = conversation[-1]
    if last["role"] == "assistant" and (thinking := turns.optional(row, THOUGHTS)):
        last.setdefault("thinking", thinking)
    return conversation


def _first(row: Row, columns: tuple[str, ...]) -> str:
    return next((column for column in columns if row.get(column) is not None), columns[0])
