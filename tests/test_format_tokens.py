"""Every format, token by token: what a row becomes and what of it is trained on, against what was written by hand.

The notation: tokens are separated by `·`, those that are trained on stand in `«»`, `↵` is a line break, and `▶` and `■`
are the control tokens <|im_start|> and <|im_end|>, by their numbers: the same characters in a text are spelt out.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ALONE, Document, Prepare, documents, loaded

Row = dict[str, Any]
Say = dict[str, Any]

ASK, ANSWER, WORSE = "Capital of Peru?", "Lima", "Paris"
USER, LIMA, PARIS = ({"role": r, "content": t} for r, t in (("user", ASK), ("assistant", ANSWER), ("assistant", WORSE)))
MORE = [{"role": "user", "content": "Capital of Japan?"}, {"role": "assistant", "content": "Tokyo"}]
SYSTEM = {"role": "system", "content": "You are helpful."}
TOOL = {"name": "Currency", "parameters": {}}
CALL = {"name": "Currency", "arguments": {"in": "Peru"}}
OPENAI_CALL = {"id": "1", "type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}
THOUGHT = "<think>\nWhich one?\n</think>\nLima"

# By hand: what these are in tokens.
ASKED = "▶·user·↵·Capital· of· Peru·?·■·↵·"
SAID = "▶·assistant·↵·«Lima·■»·↵"
SAID_WORSE = "▶·assistant·↵·«Paris·■»·↵"
MORE_SAID = "·▶·user·↵·Capital· of· Japan·?·■·↵·▶·assistant·↵·«Tokyo·■»·↵"
HELPFUL = "▶·system·↵·You· are· helpful·.·■·↵·"
THINK = "▶·system·↵·/·th·ink·■·↵·"
THOUGHT_SAID = "▶·assistant·↵·«<think>·↵·Which· one·?·↵·</think>·↵·Lima·■»·↵"
CALL_SAID = (
    '<·t·o·ol·_·c·all·>·↵·{·"·n·ame·"·:· "·Currency·"·,· "·ar·gu·m·ents·"·:· ·{·"·in·"·:· "·Peru·"·}·}·↵·<·/·t·o·ol'
    "·_·c·all·>"
)
RESULT_SAID = "<·t·o·ol·_·res·p·on·se·>·↵·New·↵·<·/·t·o·ol·_·res·p·on·se·>"
TOOLS_LISTED = (
    "You· may· c·all· the·se· f·unct·ion·s·:·↵·<·t·o·ol·s·>·↵·"
    '{·"·n·ame·"·:· "·Currency·"·,· "·par·ame·ters·"·:· ·{·}·}·↵·<·/·t·o·ol·s·>'
)
CALLED = f"{ASKED}▶·assistant·↵·«{CALL_SAID}·■»·↵·▶·user·↵·{RESULT_SAID}·■·↵·{SAID}"


def shown(folder: Path, document: Document) -> str:
    """A document in this module's notation."""
    tokenizer = loaded(folder).tokenizer
    control = {tokenizer.token_to_id("<|im_start|>"): "▶", tokenizer.token_to_id("<|im_end|>"): "■"}
    spans = []
    for trained, span in itertools.groupby(zip(document.ids, document.mask, strict=True), key=lambda pair: pair[1]):
        texts = [control.get(token) or tokenizer.decode([token], skip_special_tokens=False) for token, _ in span]
        joined = "·".join(texts).replace("\n", "↵")
        spans.append(f"«{joined}»" if trained else joined)
    return "·".join(spans)


def openai(*messages: Say, **beside: Any) -> Row:
    return {"messages": list(messages), **beside}


def sharegpt(*turns: tuple[str, str], **beside: Any) -> Row:
    return {"conversations": [{"from": name, "value": value} for name, value in turns], **beside}


def smoltalk2(*messages: Say, **settings: Any) -> Row:
    """A row as smoltalk2 has it: every setting is there, if only as an empty one."""
    empty = {"custom_instructions": "", "enable_thinking": False, "python_tools": [], "xml_tools": []}
    return openai(*messages, chat_template_kwargs={**empty, **settings}, source="x")


def parts(*texts: str) -> list[Say]:
    return [{"type": "text", "text": text} for text in texts]


CALLING = (
    USER,
    {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "New"},
    LIMA,
)
SHAREGPT_CALLING = (
    ("human", ASK),
    ("function_call", json.dumps(CALL)),
    ("observation", "New"),
    ("gpt", ANSWER),
)
COLUMNS = {
    "prompt completion": ASKED + SAID,
    "prompt accepted_completion": ASKED + SAID,
    "prompt response": ASKED + SAID,
    "prompt chosen": ASKED + SAID,
    "instruction output": ASKED + SAID,
    "question answer": ASKED + SAID,
    "user assistant": ASKED + SAID,
}
CONVERSATIONS: dict[str, tuple[Row, str]] = {
    "messages": (openai(USER, LIMA, *MORE), ASKED + SAID + MORE_SAID),
    "messages, system": (openai(SYSTEM, USER, LIMA), HELPFUL + ASKED + SAID),
    "messages, developer": (openai({**SYSTEM, "role": "developer"}, USER, LIMA), HELPFUL + ASKED + SAID),
    "messages, parts": (
        openai({"role": "user", "content": parts("Capital", " of Peru?")}, {**LIMA, "content": parts("Lima")}),
        ASKED + SAID,
    ),
    "messages, tool calls": (openai(*CALLING), CALLED),
    "messages, tool calls and tools": (openai(*CALLING, tools=[TOOL]), f"▶·system·↵·{TOOLS_LISTED}·■·↵·{CALLED}"),
    "messages, system, tool calls and tools": (
        openai(SYSTEM, *CALLING, tools=json.dumps([TOOL])),
        f"▶·system·↵·You· are· helpful·.·↵·↵·{TOOLS_LISTED}·■·↵·{CALLED}",
    ),
    "messages, text beside a call": (
        openai(USER, {**CALLING[1], "content": "Lima"}, *CALLING[2:]),
        f"{ASKED}▶·assistant·↵·«Lima·↵·{CALL_SAID}·■»·↵·▶·user·↵·{RESULT_SAID}·■·↵·{SAID}",
    ),
    "messages, two results": (
        openai(*CALLING[:3], *CALLING[2:]),
        f"{ASKED}▶·assistant·↵·«{CALL_SAID}·■»·↵·▶·user·↵·{RESULT_SAID}·↵·{RESULT_SAID}·■·↵·{SAID}",
    ),
    "ShareGPT": (
        sharegpt(("human", ASK), ("gpt", ANSWER), ("human", "Capital of Japan?"), ("gpt", "Tokyo")),
        ASKED + SAID + MORE_SAID,
    ),
    "ShareGPT, system": (
        sharegpt(("system", "You are helpful."), ("user", ASK), ("chatgpt", ANSWER)),
        HELPFUL + ASKED + SAID,
    ),
    "ShareGPT, an empty system": (sharegpt(("system", ""), ("human", ASK), ("model", ANSWER)), ASKED + SAID),
    "ShareGPT, calls": (sharegpt(*SHAREGPT_CALLING), CALLED),
    "ShareGPT, calls and tools": (
        sharegpt(*SHAREGPT_CALLING, tools=json.dumps([TOOL])),
        f"▶·system·↵·{TOOLS_LISTED}·■·↵·{CALLED}",
    ),
    "prompt and completion as messages": ({"prompt": [SYSTEM, USER], "completion": [LIMA]}, HELPFUL + ASKED + SAID),
    "chosen alone, as messages": ({"prompt": ASK, "chosen": [USER, LIMA]}, ASKED + SAID),
    "Alpaca": (
        {"instruction": ASK, "input": "Which city?", "output": ANSWER},
        "▶·user·↵·Capital· of· Peru·?·↵·↵·Which· city·?·■·↵·" + SAID,
    ),
    "Alpaca, no input": ({"instruction": ASK, "input": "", "output": ANSWER}, ASKED + SAID),
    "question, a thought": ({"question": ASK, "answer": ANSWER, "cot": "Which one?"}, THINK + ASKED + THOUGHT_SAID),
    "question, no thought": ({"question": ASK, "answer": ANSWER, "cot": ""}, ASKED + SAID),
    "a system column": ({"system": "You are helpful.", "prompt": ASK, "completion": ANSWER}, HELPFUL + ASKED + SAID),
    "a system prompt": (
        {"system_prompt": "You are helpful.", "user": ASK, "assistant": ANSWER},
        HELPFUL + ASKED + SAID,
    ),
    "smoltalk2": (smoltalk2(USER, LIMA), ASKED + SAID),
    "smoltalk2, thinking": (
        smoltalk2(USER, {**LIMA, "content": THOUGHT}, enable_thinking=True),
        THINK + ASKED + THOUGHT_SAID,
    ),
    "smoltalk2, instructions": (
        smoltalk2(USER, LIMA, custom_instructions="You are helpful."),
        HELPFUL + ASKED + SAID,
    ),
    "smoltalk2, tools": (
        smoltalk2(USER, LIMA, xml_tools=[json.dumps(TOOL)]),
        f"▶·system·↵·{TOOLS_LISTED}·■·↵·{ASKED}{SAID}",
    ),
    "a thought": (openai(USER, {**LIMA, "content": THOUGHT}), THINK + ASKED + THOUGHT_SAID),
    "a thought of its own key": (
        openai(USER, {**LIMA, "reasoning_content": "Which one?"}),
        THINK + ASKED + THOUGHT_SAID,
    ),
    "thinking, and a system message": (
        openai(SYSTEM, USER, {**LIMA, "content": THOUGHT}),
        f"▶·system·↵·You· are· helpful·.·↵·/·th·ink·■·↵·{ASKED}{THOUGHT_SAID}",
    ),
    "special tokens as text": (
        openai({"role": "user", "content": "Capital<|im_end|>"}, {**LIMA, "content": "<|im_end|>\n<|im_start|>Lima"}),
        "▶·user·↵·Capital·<·|·im·_·end·|·>·■·↵·▶·assistant·↵·«<·|·im·_·end·|·>·↵·<·|·im·_·s·tar·t·|·>·Lima·■»·↵",
    ),
    "white space at the ends": (
        {"prompt": "\nCapital ", "completion": "  Lima\n"},
        "▶·user·↵·↵·Capital· ·■·↵·▶·assistant·↵·« · ·Lima·↵·■»·↵",
    ),
    "text": ({"text": "Capital of Peru: Lima."}, "Capital·« of· Peru·:· ·Lima·.·■»"),
    "text with special tokens": ({"text": "Lima<|im_end|>Paris"}, "Lima·«<·|·im·_·end·|·>·Paris·■»"),
    **{name: (dict(zip(name.split(), (ASK, ANSWER), strict=True)), tokens) for name, tokens in COLUMNS.items()},
}


NAMES = {
    "system": ("system", "developer"),
    "user": ("human", "user", "prompter"),
    "assistant": ("gpt", "chatgpt", "bing", "bard", "model", "ai", "bot", "assistant"),
    "tool": ("observation", "tool", "function", "function_response", "ipython"),
}


@pytest.mark.parametrize("role", NAMES)
def test_role_names_of_sharegpt(prepare: Prepare, tiny: Path, role: str) -> None:
    """Whatever a dataset calls who speaks, the tokens are the same."""
    first = [("system", "You are helpful."), *SHAREGPT_CALLING]
    own = {"human": "user", "gpt": "assistant", "observation": "tool"}
    rows = [
        sharegpt(*((name if own.get(said, said) == role else said, text) for said, text in first))
        for name in NAMES[role]
    ]
    found = documents(prepare(rows, packing=False, dedup="none", **ALONE))
    assert [shown(tiny, document) for document in found] == [HELPFUL + CALLED] * len(rows)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_row_to_train_on(prepare: Prepare, tiny: Path, name: str) -> None:
    """A conversation or a text is these tokens, and what the assistant says is trained on, to the end of its turn."""
    row, expected = CONVERSATIONS[name]
    (document,) = documents(prepare([row], packing=False, **ALONE))
    assert shown(tiny, document) == expected


@pytest.mark.parametrize(
    ("loss_on", "more", "expected"),
    [
        ("last", MORE, f"{ASKED}▶·assistant·↵·Lima·■·↵{MORE_SAID}"),
        ("all", [], "▶·«user·↵·Capital· of· Peru·?·■·↵·▶·assistant·↵·Lima·■·↵»"),
    ],
)
def test_what_else_may_be_trained_on(
    prepare: Prepare, tiny: Path, loss_on: str, more: list[Say], expected: str
) -> None:
    """data.loss_on takes the last answer alone, or every token that has one before it."""
    row = openai(USER, LIMA, *more)
    (document,) = documents(prepare([row], loss_on=loss_on, packing=False, **ALONE))
    assert shown(tiny, document) == expected


BOTH = [ASKED + SAID, ASKED + SAID_WORSE]
PAIRS: dict[str, tuple[Row, list[str]]] = {
    "texts": ({"prompt": ASK, "chosen": ANSWER, "rejected": WORSE}, BOTH),
    "texts, a system column": (
        {"system": "You are helpful.", "question": ASK, "chosen": ANSWER, "rejected": WORSE},
        [HELPFUL + tokens for tokens in BOTH],
    ),
    "messages with a prompt": ({"prompt": [USER], "chosen": [LIMA], "rejected": [PARIS]}, BOTH),
    "messages that repeat the prompt": ({"prompt": ASK, "chosen": [USER, LIMA], "rejected": [USER, PARIS]}, BOTH),
    "messages without a prompt": ({"chosen": [USER, LIMA], "rejected": [USER, PARIS]}, BOTH),
    "several turns": (
        {"chosen": [*MORE, USER, LIMA], "rejected": [*MORE, USER, PARIS]},
        [
            "▶·user·↵·Capital· of· Japan·?·■·↵·▶·assistant·↵·Tokyo·■·↵·" + ASKED + SAID,
            "▶·user·↵·Capital· of· Japan·?·■·↵·▶·assistant·↵·Tokyo·■·↵·" + ASKED + SAID_WORSE,
        ],
    ),
    "dialogues": (
        {"chosen": f"\n\nHuman: {ASK}\n\nAssistant: Lima", "rejected": f"\n\nHuman: {ASK}\n\nAssistant: Paris"},
        BOTH,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_preference_pair(prepare: Prepare, tiny: Path, name: str) -> None:
    """A pair is two conversations, of which the last answers alone are trained on."""
    row, expected = PAIRS[name]
    found = documents(prepare([row], method="dpo", packing=False, **ALONE))
    assert [shown(tiny, document) for document in found] == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": ASK, "completion": WORSE, "label": False}, [ASKED + SAID_WORSE]),
        ({"prompt": [SYSTEM, USER], "completion": [LIMA], "label": True}, [HELPFUL + ASKED + SAID]),
        ({"prompt": ASK, "completions": [ANSWER, WORSE]}, BOTH),
    ],
    ids=["KTO", "KTO, messages", "ranked"],
)
def test_a_row_that_no_method_trains_on_yet(prepare: Prepare, tiny: Path, row: Row, expected: list[str]) -> None:
    """A judged answer, and each of a ranked list, is a conversation that ends with it."""
    found = documents(prepare([row], method=None, packing=False, **ALONE))
    assert [shown(tiny, document) for document in found] == expected
