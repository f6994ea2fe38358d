"""The commands that the documents tell, and what is wrong with one: asked of the parsers that it would meet."""

import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperArgument, TyperGroup
from typer.exceptions import TyperException

from flows import cli, data, sweep_command
from smollm3_ft import layers, resolve
from smollm3_ft.errors import ConfigError

ROOT = Path(__file__).parent.parent
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")})
FENCE = re.compile(r"^(```|~~~)([^\n]*)\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
OURS = re.compile(
    r"(\.venv/bin/)?(smollm3-ft|python -m (flows|smollm3_ft)|python (docs|benchmarks)/\w|make)(?![-\w]*-)"
)
OF_OTHERS = {"accelerate", "cd", "cp", "docker", "export", "git", "prefect", "printf", "pytest", "tail", "trackio"}
PLACEHOLDERS = {"N": "1", "NAME": "demo", "SOURCE": "rows.jsonl", "REASON": "because"}


class Command(NamedTuple):
    """A command of a document: the page, and its words."""

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {shlex.join(self.words)}"


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return [(language.strip(), text) for _, language, text in FENCE.findall(page.read_text(encoding="utf-8"))]


def in_blocks(page: Path) -> Iterator[Command]:
    """Every command of the page's shell blocks."""
    for language, text in blocks(page):
        if language in ("bash", "sh") or (not language and OURS.match(text)):
            for line in text.replace("\\\n", " ").splitlines():
                words = iter(shlex.split(line, comments=True))
                while one := tuple(itertools.takewhile(lambda word: word not in ("|", "&&"), words)):
                    yield Command(page, one)


def told() -> Iterator[Command]:
    """Every command of every page: of its shell blocks, and ours within its sentences that are whole ones."""
    for page in PAGES:
        yield from in_blocks(page)
        prose = FENCE.sub("", page.read_text(encoding="utf-8"))
        for text in INLINE.findall(prose):
            if OURS.match(text) and not re.search(r"[…\[<|]|\.\.\.", text):
                yield Command(page, tuple(shlex.split(text)))


def fault(command: Command) -> str | None:
    """What the command's own parser has against it; None where that takes it."""
    words = [PLACEHOLDERS.get(word, word) for word in command.words]
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program, *rest = words or [""]
    program = program.removeprefix(".venv/bin/")
    try:
        if program == "smollm3-ft":
            return _of_the_app(rest)
        if program == "make":
            return _of_make(rest)
        if program in ("python", "python3"):
            return _of_python(rest)
        if program not in OF_OTHERS:
            return f"{program} is no program that is known here"
    except TyperException as error:
        return error.format_message()
    except ConfigError as error:
        return str(error)
    return None


def _of_the_app(words: list[str]) -> str | None:
    commands = typer.main.get_command(cli.app)
    assert isinstance(commands, TyperGroup)
    if not words:
        return None
    name, *rest = words
    if name not in commands.commands:
        return f"there is no command {name}"
    if not rest:  # spoken of, as `smollm3-ft rows`
        return None
    given = _parsed(commands.commands[name], rest)
    if name == "plan":
        _of_a_run(given)
    if name == "data":
        data._configuration(given[0], given[1:])
    return None


def _parsed(command: Any, words: list[str]) -> list[str]:
    """The command's arguments, in their order; raises where an option or its value is none."""
    values = command.make_context(command.name, list(words)).params
    found: list[str] = []
    for parameter in command.params:
        value = values.get(parameter.name)
        if isinstance(parameter, TyperArgument) and value:
            found += [value] if isinstance(value, str) else list(value)
    return found


def _of_make(words: list[str]) -> str | None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [word for word in words if "=" not in word and word not in targets]
    return f"there is no target {unknown[0]}" if unknown else None


def _of_python(words: list[str]) -> str | None:
    if words[:1] != ["-m"]:
        return None if (ROOT / words[0]).is_file() else f"there is no {words[0]}"
    module, *rest = words[1:]
    if module in ("flows.finetune", "flows.sweep") and not rest:
        return None
    if module == "flows.finetune":
        _of_a_run(_parsed(_alone(cli._finetune), rest))
    elif module == "flows.sweep":
        words = _parsed(_alone(sweep_command._sweep), rest)
        if not any(map(_is_a_file, words)):
            sweep_command.load(words)
    elif module.startswith(("flows.", "smollm3_ft.")):
        return None if (ROOT / f"{module.replace('.', '/')}.py").is_file() else f"there is no {module}"
    elif module != "pytest":
        return f"{module} is no module that is known here"
    return None


def _alone(function: Callable[..., None]) -> Any:
    """A command that is a program of its own."""
    program = typer.Typer()
    program.command()(function)
    return typer.main.get_command(program)


def _of_a_run(words: list[str]) -> None:
    """Raises ConfigError where the words are no configuration. A file of the reader's own is not there."""
    given, file = layers.of_command([word for word in words if not _is_a_file(word)])
    resolve.resolve(given, {}, file)


def own_run(command: Command) -> tuple[str, ...] | None:
    """The words of a run on the reader's own rows, for the built-in model on a machine like this one."""
    words = set(command.words)
    is_own = words & {"data.source=rows.jsonl", "data.source=pairs.jsonl"} and "--from" not in words
    if "flows.finetune" not in words or not is_own:
        return None
    here = ("model.name=builtin:tiny", "model.dtype=float32", "data.max_length=256")
    keys = ("model.", "data.max_length=", "compute.", "runs_dir=", "publish.", "evaluate.harness=", "--")
    given = command.words[command.words.index("flows.finetune") + 1 :]
    return (*(word for word in given if not word.startswith(keys)), *here)


def _is_a_file(word: str) -> bool:
    return "=" not in word and word.endswith((".yaml", ".yml"))
