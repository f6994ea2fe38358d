"""The documents: what they link to is there, and the commands that they tell are commands."""

import ast
import re
import runpy
import sys
from pathlib import Path

import documented
import house
import pytest
from conftest import facts, write_rows
from documented import PAGES, ROOT

from flows import cli
from smollm3_ft import layers

LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by, as GitHub names them."""
    prose = documented.FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every file that a page links to is there, and has the heading that is meant."""
    prose = documented.FENCE.sub("", page.read_text(encoding="utf-8"))
    dead = []
    for link in LINK.findall(prose):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_page_is_reached_from_the_index() -> None:
    """`docs/README.md` links to all pages beside it."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text("utf-8"))}
    assert {page for page in PAGES if page.parent == index.parent} - {index} <= linked


def test_every_command_that_is_told_is_one() -> None:
    """Its program, options, keys and values are there: asked of the parsers that it would meet."""
    commands = list(documented.told())
    assert len(commands) > 100
    assert {str(command): fault for command in commands if (fault := documented.fault(command))} == {}


def test_runs_that_are_told_can_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run on the reader's own rows is planned, on rows of ours and with the built-in model."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", facts(30))
    pair = {"prompt": "What is it?", "chosen": "It is 1.", "rejected": "It is 2."}
    write_rows(tmp_path / "pairs.jsonl", [{**pair, "prompt": f"What is number {n}?"} for n in range(30)])
    told = {words: command for command in documented.told() if (words := documented.own_run(command))}
    failed = {}
    for words, command in told.items():
        monkeypatch.setattr(sys, "argv", ["finetune", *words, "--plan"])
        try:
            code = cli.finetune()
        except SystemExit as stop:
            code = int(stop.code or 0)
        if code != cli.DONE:
            failed[str(command)] = capsys.readouterr().err
    assert len(told) > 10
    assert failed == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("smollm3-ft rnus", "there is no command rnus"),
        ("smollm3-ft rows demo --setp 3", "--setp"),
        ("make tset", "there is no target tset"),
        (".venv/bin/python -m flows.finetune sft_lora train.epoch=3", "train.epoch"),
        ("python -m flows.sweep demo sweep.trails=3 sweep.space.seed.choices=[1,2]", "sweep.trails"),
        ("python benchmarks/speed.py", "there is no benchmarks/speed.py"),
        ("smollm3_ft runs", "no program that is known here"),
    ],
)
def test_a_command_that_is_none_is_found(words: str, said: str) -> None:
    """The check above is one."""
    assert said in str(documented.fault(documented.Command(ROOT / "README.md", tuple(words.split()))))


@pytest.mark.parametrize("page", ["keys", "commands"])
def test_the_reference_is_what_the_models_and_parsers_say(page: str) -> None:
    """Every key and every command; after a change `python docs/reference_pages.py` writes them anew."""
    written = runpy.run_path(str(ROOT / "docs" / "reference_pages.py"))[page]()
    assert (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") == written


def test_the_reference_has_every_variable_and_file() -> None:
    """Every variable that gives a key, and every file that a run leaves for its reader."""
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert [
        name for name in (*layers.ENVIRONMENT, *(Path(file).name for file in house.FILES)) if name not in page
    ] == []


def test_the_messages_in_troubleshooting_are_the_programs_own() -> None:
    """Each part of each message that is shown there stands in the code."""
    page = ROOT / "docs" / "troubleshooting.md"
    shown = [line for language, text in documented.blocks(page) if language == "text" for line in text.splitlines()]
    shown += [text for text in documented.INLINE.findall(page.read_text(encoding="utf-8")) if "…" in text]
    parts = {part.strip() for line in shown for part in re.split("…|; |: ", line)}
    ours = said()
    assert {part for part in parts if len(part) > 3 and part not in ours} == set()


def said() -> str:
    """Every text in the program, a line each, without what is filled in."""
    files = [path for package in ("smollm3_ft", "tasks", "flows") for path in (ROOT / package).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
