"""As tests/test_format_tokens.py, with a template that does what SmolLM3's does."""

import shutil
from pathlib import Path

import pytest
from conftest import ALONE, Prepare, documents
from test_format_tokens import (
    ASKED,
    CALL_SAID,
    CALLING,
    LIMA,
    MORE,
    SYSTEM,
    THOUGHT,
    TOOL,
    USER,
    Row,
    openai,
    shown,
    smoltalk2,
)


# What the SmolLM3-like template writes: a header with the pinned date, the mode and the system message, turns as users,
# and answers that are trained on with their beginning, where an empty thought stands if they do not think.
def header(mode: str, wishes: str = "You· are· S·m·ol·L·M·.", listed: str = "") -> str:
    date = "T·od·ay·:· ·0·8· J·ul·y· ·2·0·2·5"
    start = f"▶·system·↵·#· F·ac·t·s·↵·↵·{date}·↵·M·od·e·:· ·/·{mode}·↵·↵·#· ·W·ish·es·↵·↵"
    return f"{start}·{wishes}·↵·↵·{listed}■·↵·"


NO = "n·o·_·th·ink"
EMPTY = "«▶·assistant·↵·<think>·↵·↵·</think>·↵·"
THINKING = "«▶·assistant·↵·<think>·↵·Which· one·?·↵·</think>·↵·Lima·■·↵»"
LISTED = (
    "#· T·o·ol·s·↵·↵·<·t·o·ol·s·>·↵·{·'·n·ame·'·:· ·'·Currency·'·,· ·'·par·ame·ters·'·:· ·{·}·}·↵·<·/·t·o·ol·s·>·↵·↵·"
)
SMOLLM3: dict[str, tuple[Row, str]] = {
    "not thinking": (openai(USER, LIMA), f"{header(NO)}{ASKED}{EMPTY}Lima·■·↵»"),
    "thinking": (openai(USER, {**LIMA, "content": THOUGHT}), header("th·ink") + ASKED + THINKING),
    "thinking, smoltalk2": (
        smoltalk2(USER, {**LIMA, "content": THOUGHT}, enable_thinking=True, custom_instructions="You are helpful."),
        header("th·ink", "You· are· helpful·.") + ASKED + THINKING,
    ),
    "an empty thought": (
        openai(USER, {**LIMA, "content": "<think>\n\n</think>\n\nLima"}),
        f"{header(NO)}{ASKED}{EMPTY}Lima·■·↵»",
    ),
    "told to think": (
        openai({**SYSTEM, "content": "You are helpful. /think"}, USER, LIMA),
        f"{header('th·ink', 'You· are· helpful·.')}{ASKED}«▶·assistant·↵·Lima·■·↵»",
    ),
    "told not to think": (
        openai({**SYSTEM, "content": "/no_think"}, USER, LIMA),
        f"{header(NO)}{ASKED}{EMPTY}Lima·■·↵»",
    ),
    "told by a column": (
        openai(USER, LIMA, enable_thinking=True),
        f"{header('th·ink')}{ASKED}«▶·assistant·↵·Lima·■·↵»",
    ),
    "a system message, two turns": (
        openai(SYSTEM, USER, LIMA, USER, MORE[1]),
        f"{header(NO, 'You· are· helpful·.')}{ASKED}{EMPTY}Lima·■·↵»·{ASKED}{EMPTY}Tokyo·■·↵»",
    ),
    "tools and calls": (
        openai(*CALLING, tools=[TOOL]),
        f"{header(NO, listed=LISTED)}{ASKED}{EMPTY}{CALL_SAID}·■·↵»·▶·user·↵·New·■·↵·{EMPTY}Lima·■·↵»",
    ),
    "tools in code": (
        smoltalk2(USER, LIMA, python_tools=["Currency()"]),
        header(NO, listed="#· T·o·ol·s·↵·↵·<·t·o·ol·s·>·↵·de·f· C·urrency·(·)·↵·<·/·t·o·ol·s·>·↵·↵·")
        + f"{ASKED}{EMPTY}Lima·■·↵»",
    ),
    "special tokens as text": (
        openai(USER, {**LIMA, "content": "Lima<|im_end|>"}),
        f"{header(NO)}{ASKED}{EMPTY}Lima·<·|·im·_·end·|·>·■·↵»",
    ),
}


@pytest.mark.parametrize("name", SMOLLM3)
def test_a_row_in_smollm3_s_way(prepare: Prepare, tiny: Path, tmp_path: Path, name: str) -> None:
    """With a template that does what SmolLM3's does, thinking, tools and system messages are these tokens."""
    model = shutil.copytree(tiny, tmp_path / "model")
    shutil.copyfile(Path(__file__).parent / "smollm3_like.jinja", model / "chat_template.jinja")
    row, expected = SMOLLM3[name]
    (document,) = documents(prepare([row], model=model, packing=False, **ALONE))
    assert shown(tiny, document) == expected
