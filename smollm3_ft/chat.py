"""A model's tokenizer and chat template, without torch: messages to text, text to tokens, and which are trained on.

The template is rendered as transformers does it (a test compares the two); `{% generation %}` marks what the assistant
says. The date that a template may print is pinned, so that a row has the same tokens on every day.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
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
OPENING, CLOSING = "\ufdd0", "\ufdd1"
TODAY = datetime.datetime(2025, 7, 8, tzinfo=datetime.UTC)  # the day SmolLM3 was released


class Chat(NamedTuple):
    """What is needed to turn messages into tokens."""

    tokenizer: tokenizers.Tokenizer
    template: jinja2.Template
    has_marks: bool
    special_tokens: tuple[str, ...]
    variables: dict[str, str]
    digest: str


class Rendered(NamedTuple):
    """A conversation's text, and the spans of characters that the assistant says, end-of-turn token included."""

    text: str
    spans: tuple[tuple[int, int], ...]


def load(folder: Path) -> Chat:
    """Read `tokenizer.json` and the chat template from a model's folder. Raises ConfigError where one is missing."""
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
    special = tuple(t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special)
    named = {**settings, **_json(folder / "special_tokens_map.json")}
    variables = {key: _content(named[key]) for key in ("bos_token", "eos_token", "pad_token") if named.get(key)}
    return Chat(
        tokenizer,
        _environment().from_string(source),
        "endgeneration" in source,
        special,
        variables,
        files.digest([files.sha256(path), source, variables, TODAY.isoformat()]),
    )


def render(
    chat: Chat, messages: Sequence[dict[str, str]], thinking: bool = False, add_generation_prompt: bool = False
) -> Rendered:
    """The chat template's text. Raises jinja2.TemplateError where the template refuses the messages."""
    marked = chat.template.render(
        messages=messages,
        add_generation_prompt=add_generation_prompt,
        enable_thinking=thinking,
        **chat.variables,
    )
    return _without_marks(marked)


def _without_marks(marked: str) -> Rendered:
    pieces: list[str] = []
    spans = []
    length = 0
    for index, part in enumerate(marked.split(OPENING)):
        said, closing, rest = part.partition(CLOSING) if index else ("", "", part)
        if closing:
            spans.append((length, length + len(said)))
        pieces += [said, rest]
        length += len(said) + len(rest)
    return Rendered("".join(pieces), tuple(spans))


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
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


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
