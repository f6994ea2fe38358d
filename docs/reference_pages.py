"""Writes `keys.md` and `commands.md` from the models and the parsers: `python docs/reference_pages.py`.

A test holds the pages to what this writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperGroup

from flows import cli, sweep_command
from smollm3_ft.config import Config, Section, union_members
from smollm3_ft.searchspace import Sweep
from smollm3_ft.validation import sections_in

HERE = Path(__file__).parent
KEYS = """# Every key

Written by `python docs/reference_pages.py` from [`smollm3_ft/config.py`](../smollm3_ft/config.py). The default is what
holds where no recipe, environment variable, file or `key=value` says otherwise ([which wins](reference.md)). A key that
may be `none` is switched off by that word. What a recipe gives stands in
[`smollm3_ft/recipes/`](../smollm3_ft/recipes).
"""
COMMANDS = """# Every command

Written by `python docs/reference_pages.py` from the commands themselves; each says the same with `--help`. `RUN` is a
name in `runs`, or a run's folder. [Exit codes](reference.md#exit-codes).
"""
MAKE = """
## make

| target | what it does |
|---|---|
"""
UNITS = {"integer": "whole number", "number": "number", "string": "text", "array": "list", "object": "mapping"}
PROGRAMS: dict[str, Callable[..., None]] = {
    "python -m flows.finetune": cli._finetune,
    "python -m flows.sweep": sweep_command._sweep,
}


def main() -> None:
    (HERE / "keys.md").write_text(keys(), encoding="utf-8")
    (HERE / "commands.md").write_text(commands(), encoding="utf-8")


def keys() -> str:
    """The page of all keys, a table a section."""
    text = KEYS + _table("A run", "", Config, Config.model_json_schema())
    return text + _table("sweep", "sweep.", Sweep, Sweep.model_json_schema(), "of `python -m flows.sweep` alone")


def _table(title: str, prefix: str, section: type[Section], schema: dict[str, Any], note: str = "") -> str:
    rows, below = [], []
    definitions = schema.get("$defs", {})
    for key, field in section.model_fields.items():
        inner = next(sections_in(field.annotation), None)
        one = schema["properties"][key]
        if inner is not None and inner.__name__ != "Source" and prefix != "sweep.":
            of_inner = {**definitions[inner.__name__], "$defs": definitions}
            below.append(_table(f"{prefix}{key}", f"{prefix}{key}.", inner, of_inner))
            continue
        default = field.get_default(call_default_factory=True)
        shown = "" if field.is_required() else f"`{_plain(default)}`"
        help_ = one.get("description", "").partition(". Usually")[0]
        takes = _accepted(one, definitions)
        if type(None) in union_members(field.annotation) and "`none`" not in takes:
            takes += ", or `none`"
        rows.append(f"| `{prefix}{key}` | {takes} | {shown} | {_cell(help_)} |")
        if inner is not None and inner.__name__ == "Source":
            source = {**definitions["Source"], "$defs": definitions}
            below.append(_table(f"an item of {prefix}{key}", "", inner, source))
    head = f"\n## {title}\n\n{note[:1].upper() + note[1:] + chr(10) + chr(10) if note else ''}"
    return head + "| key | takes | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n" + "".join(below)


def _accepted(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a field takes, in words."""
    if "$ref" in schema:
        return "a mapping of keys"
    if "anyOf" in schema:
        return ", or ".join(_accepted(one, definitions) for one in schema["anyOf"])
    if "if" in schema:
        return "a mapping, or `none`"
    if "enum" in schema:
        return " ".join(f"`{_plain(value)}`" for value in schema["enum"])
    words = UNITS[schema["type"]]
    if schema["type"] == "array":
        items = schema.get("items", {})
        words += f" of {_accepted(items, definitions)}" if "enum" in items else ""
    bounds = ("minimum", "≥"), ("exclusiveMinimum", ">"), ("exclusiveMaximum", "<"), ("maximum", "≤")
    shown = [f"{sign} {schema[key]}" for key, sign in bounds if key in schema and not _is_shadow(schema, key)]
    return " ".join([words, *shown])


def _is_shadow(schema: dict[str, Any], key: str) -> bool:
    """Whether the bound is there for the browser's form beside the one that is meant, or is meant less plainly."""
    if key == "exclusiveMinimum":
        return bool(schema["type"] == "integer")
    return f"exclusive{key.capitalize()}" in schema and (key == "maximum" or schema["type"] != "integer")


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def commands() -> str:
    """The page of all commands: arguments, options, and make's targets."""
    app = typer.main.get_command(cli.app)
    assert isinstance(app, TyperGroup)
    text = COMMANDS
    for program, function in PROGRAMS.items():
        alone = typer.Typer(add_completion=False)
        alone.command()(function)
        text += _command(program, typer.main.get_command(alone))
    for name, command in sorted(app.commands.items()):
        text += _command(f"smollm3-ft {name}", command)
    return text + MAKE + "".join(f"| `make {target}` | {what} |\n" for target, what in targets())


def _command(name: str, command: Any) -> str:
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    usage = " ".join([name, *(one.metavar or str(one.name).upper() for one in arguments)])
    said = command.help.strip().splitlines()[0]
    options = [one for one in command.params if not isinstance(one, TyperArgument) and one.name != "help"]
    rows = "".join(f"| `{_option(one)}` | {_cell(one.help or '')} |\n" for one in options)
    return f"\n## {name}\n\n`{usage}`\n\n{said}\n" + (f"\n| option | |\n|---|---|\n{rows}" if rows else "")


def _option(option: Any) -> str:
    return str(option.opts[0]) if option.is_flag else f"{option.opts[0]} {option.metavar or option.name.upper()}"


def targets() -> Iterator[tuple[str, str]]:
    """Make's targets and what stands above them."""
    above = ""
    for line in (HERE.parent / "Makefile").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            above = line.removeprefix("## ")
        elif above and line[:1].isalpha():
            yield line.partition(":")[0], above
            above = ""


if __name__ == "__main__":
    main()
