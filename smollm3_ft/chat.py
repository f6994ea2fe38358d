"""A model's tokenizer and chat template, without torch.

The template is rendered as transformers does it (a test compares the two); `{% generation %}` marks what the assistant
says. The date that a template may print is pinned, so that a row has the same tokens on every day.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import tokenizers

from smollm3_ft import files
from smollm3_ft.errors import ConfigError, Problem

# Unicode noncharacters: they stand for nothing in any text, so they can mark a place in one.
OPENING, CLOSING = "\ufdd0", "\ufdd1"  # around what the assistant says
BEGIN, END = "\ufdd2", "\ufdd3"  # around a message's own text
MARKS = (OPENING, CLOSING, BEGIN, END)
TODAY = datetime.datetime(2025, 7, 8, tzinfo=datetime.UTC)  # the day SmolLM3 was released


class Chat(NamedTuple):
    """What is needed to turn messages into tokens."""

    tokenizer: tokenizers.Tokenizer
    template: jinja2.Template
    has_marks: bool
    special_tokens: dict[str, int]
    variables: dict[str, str]
    sought: Sought
    writes_empty_thought: bool  # before an answer that is to come without thinking
    digest: str


class Sought(NamedTuple):
    """What a template looks for in texts: a text without any of it is treated as every other such text."""

    inside: tuple[str, ...]
    whole: frozenset[str]


FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def load(folder: Path) -> Chat:
    """Read `tokenizer.json` and the chat template from a model's folder, or take them as they were read before.

    Raises ConfigError where one is missing.
    """
    states = [(folder / name).stat() if (folder / name).exists() else None for name in FILES]
    return _load(folder, tuple(state and (state.st_size, state.st_mtime_ns, state.st_ino) for state in states))


@functools.lru_cache(maxsize=4)
def _load(folder: Path, _state: tuple[Any, ...]) -> Chat:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            Problem("model.name", f"{folder} has no tokenizer.json", "name a model with a fast tokenizer")
        )
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    settings = _json(folder / "tokenizer_config.json")
    tokenizer.no_truncation()  # some models' files carry the settings of their own training
    tokenizer.no_padding()
    source = _template(folder, settings)
    special = {t.content: number for number, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    environment = _environment()
    named = {**settings, **_json(folder / "special_tokens_map.json")}
    variables = {key: _content(named[key]) for key in ("bos_token", "eos_token", "pad_token") if named.get(key)}
    template = environment.from_string(source)
    return Chat(
        tokenizer,
        template,
        "endgeneration" in source,
        special,
        variables,
        _sought(environment.parse(source)),
        _writes_empty_thought(template, variables),
        files.digest([files.sha256(path), source, variables, TODAY.isoformat()]),
    )


def render(
    chat: Chat,
    messages: Sequence[Mapping[str, Any]],
    thinking: bool = False,
    tools: Sequence[Any] = (),
    python_tools: Sequence[Any] = (),
    add_generation_prompt: bool = False,
) -> str:
    """The chat template's text, with marks around what the assistant says.

    Raises jinja2.TemplateError where the template refuses the messages, TypeError where it cannot take them.
    """
    given = {"tools": list(tools), "python_tools": list(python_tools)}
    return chat.template.render(
        messages=messages,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=thinking,
        **{name: value for name, value in given.items() if value},
        **chat.variables,
    )


def alike(one: Chat, other: Chat) -> bool:
    """Whether both make the same tokens of a row: their files may differ, as those that a training saves do."""
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    same_text = all(render(one, turns, mode) == render(other, turns, mode) for mode in (False, True))
    same_tokens = one.special_tokens == other.special_tokens
    return same_text and same_tokens and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


def without_marks(text: str) -> str:
    """A rendered text as the model gets it."""
    for mark in MARKS:
        text = text.replace(mark, "")
    return text


def _writes_empty_thought(template: jinja2.Template, variables: Mapping[str, str]) -> bool:
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    try:
        return "<think>" in template.render(messages=turns, enable_thinking=False, **variables)
    except (jinja2.TemplateError, TypeError):
        return False  # it refuses every row, and says why where that is counted


def _sought(template: jinja2.nodes.Template) -> Sought:
    """Constants that the template compares texts with, looks for in them, or replaces in them."""
    inside: set[str] = set()
    whole: set[str] = set()
    for call in template.find_all(jinja2.nodes.Call):
        if not (isinstance(call.node, jinja2.nodes.Name) and call.node.name in ("raise_exception", "strftime_now")):
            inside.update(_constants(call.args))
    for tried in (*template.find_all(jinja2.nodes.Filter), *template.find_all(jinja2.nodes.Test)):
        inside.update(_constants(tried.args))
    for assigned in template.find_all(jinja2.nodes.Assign):
        inside.update(_constants([assigned.node]))
    for compared in template.find_all(jinja2.nodes.Compare):
        others = [operand.expr for operand in compared.ops]
        of_parts = any(_is_part(side) for side in (compared.expr, *others))
        (inside if of_parts or compared.ops[0].op in ("in", "notin") else whole).update(_constants([compared.expr]))
        (inside if of_parts else whole).update(_constants(others))
    return Sought(tuple(sorted(text for text in inside if text.strip() or len(text) > 1)), frozenset(whole))


def _is_part(node: jinja2.nodes.Node) -> bool:
    """Whether an expression may be a part of a text, or what was made of one: text[0], text[:2], text | trim."""
    if isinstance(node, jinja2.nodes.Getitem):
        return not (isinstance(node.arg, jinja2.nodes.Const) and isinstance(node.arg.value, str))
    return isinstance(node, jinja2.nodes.Filter | jinja2.nodes.Call)


def _constants(expressions: Iterable[jinja2.nodes.Node]) -> Iterator[str]:
    """Texts in expressions, but those of comparisons, which are seen for themselves, and names of keys."""
    for node in expressions:
        if isinstance(node, jinja2.nodes.Const):
            if isinstance(node.value, str):
                yield node.value
        elif isinstance(node, jinja2.nodes.Getitem):
            yield from _constants([node.node])
        elif not isinstance(node, jinja2.nodes.Compare):
            yield from _constants(node.iter_child_nodes())


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: keeps its content and marks where it lies."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return f"{OPENING}{caller()}{CLOSING}"


def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


def as_json(value: Any, **options: Any) -> str:
    """JSON as transformers' templates write it."""
    return json.dumps(value, ensure_ascii=False, **options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _template(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    given = settings.get("chat_template")
    if isinstance(given, list):
        given = {entry["name"]: entry["template"] for entry in given}.get("default")
    if not isinstance(given, str):
        raise ConfigError(Problem("model.name", f"{folder} has no chat template", "name an instruction-tuned model"))
    return given


def _json(path: Path) -> dict[str, Any]:
    return files.read_json(path) if path.is_file() else {}


def _content(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)
