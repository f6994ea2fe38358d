"""Each format of rows gives exactly what the row says, or says why it cannot. tests/test_turns.py has the messages."""

from typing import Any

import pytest

from smollm3_ft.formats import COLUMNS, FORMATS, KINDS, USABLE, BadRow, Example, Message, detect


def said(*turns: str, system: str | None = None, **last: Any) -> list[Message]:
    """Turns of user and assistant by turns, `last` being what the last one has beside its text."""
    first = [] if system is None else [{"role": "system", "content": system}]
    spoken = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]
    return [*first, *spoken[:-1], {**spoken[-1], **last}]


HI = said("Hi", "Hello")
BYE = said("Hi", "Hello", "Bye", "See you")
ANSWER, WORSE = HI[1:], [{"role": "assistant", "content": "What?"}]
PAIR = Example((HI, said("Hi", "What?")))
LOOK = {"type": "function", "function": {"name": "look", "parameters": {}}}
DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"
EXPORTED = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("preference", {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}, PAIR),
        ("preference", {"question": "Hi", "chosen": "Hello", "rejected": "What?", "system": ""}, PAIR),
        ("preference", {"prompt": HI[:1], "chosen": ANSWER, "rejected": WORSE}, PAIR),
        ("preference", {"prompt": HI[:1], "chosen": "Hello", "rejected": "What?"}, PAIR),
        ("preference", {"prompt": "Hi", "chosen": HI, "rejected": [*HI[:1], *WORSE]}, PAIR),
        ("preference", {"chosen": HI, "rejected": [*HI[:1], *WORSE]}, PAIR),
        ("preference", {"prompt": None, "chosen": EXPORTED, "rejected": EXPORTED.replace("Hello", "What?")}, PAIR),
        (
            "preference",
            {"prompt": "Hi", "chosen": "Hello", "rejected": "What?", "system_prompt": "Be kind."},
            Example((said("Hi", "Hello", system="Be kind."), said("Hi", "What?", system="Be kind."))),
        ),
        (
            "preference",
            {"chosen": DIALOGUE + " See you", "rejected": DIALOGUE + "  No.\n"},
            Example((BYE, said("Hi", "Hello", "Bye", " No.\n"))),
        ),
        (
            "preference",
            {"prompt": DIALOGUE, "chosen": "See you", "rejected": " No."},
            Example((BYE, said("Hi", "Hello", "Bye", " No."))),
        ),
        ("kto", {"prompt": "Hi", "completion": "Hello", "label": True}, Example((HI,), label=True)),
        ("kto", {"prompt": HI[:1], "completion": ANSWER, "label": "False"}, Example((HI,), label=False)),
        ("ranked", {"prompt": "Hi", "completions": ["Hello", "What?"]}, PAIR),
        ("ranked", {"prompt": HI[:1], "responses": '["Hello", "What?"]'}, PAIR),
        ("ranked", {"prompt": "Hi", "answers": ["Hello"]}, Example((HI,))),
        ("ranked", {"prompt": "Hi", "completions": None, "outputs": ["Hello"]}, Example((HI,))),
        ("messages", {"messages": BYE}, Example((BYE,))),
        ("messages", {"messages": EXPORTED, "id": 7}, Example((HI,))),
        ("messages", {"messages": HI, "system": "Be kind."}, Example((said("Hi", "Hello", system="Be kind."),))),
        ("conversations", {"conversations": [{"from": "human", "value": "Hi"}, *ANSWER]}, Example((HI,))),
        (
            "conversations",
            {"conversations": HI, "system": "Be kind.", "tools": '[{"name": "look"}]'},
            Example((said("Hi", "Hello", system="Be kind."),), tools=({"name": "look"},)),
        ),
        ("prompt_completion", {"prompt": "Hi", "completion": " Hello "}, Example((said("Hi", " Hello "),))),
        ("prompt_completion", {"prompt": "Hi", "accepted_completion": "Hello"}, Example((HI,))),
        ("prompt_completion", {"prompt": "Hi", "completion": None, "response": "Hello"}, Example((HI,))),
        ("prompt_completion", {"prompt": "Hi", "chosen": "Hello", "rejected": None}, Example((HI,))),
        ("prompt_completion", {"prompt": HI[:1], "completion": ANSWER}, Example((HI,))),
        ("prompt_completion", {"prompt": "Hi", "completion": "[]"}, Example((said("Hi", "[]"),))),
        ("prompt_completion", {"prompt": "Hi", "completion": '[{"role": 1}]'}, Example((said("Hi", '[{"role": 1}]'),))),
        ("alpaca", {"instruction": "Add", "input": "1 and 2", "output": "3"}, Example((said("Add\n\n1 and 2", "3"),))),
        (
            "alpaca",
            {"instruction": "Add", "context": "1 and 2", "response": "3"},
            Example((said("Add\n\n1 and 2", "3"),)),
        ),
        ("alpaca", {"instruction": "Add", "input": " ", "output": "3"}, Example((said("Add", "3"),))),
        ("alpaca", {"instruction": "Add", "input": None, "output": "3"}, Example((said("Add", "3"),))),
        (
            "alpaca",
            {"instruction": "Add", "output": "3", "system": "Be kind."},
            Example((said("Add", "3", system="Be kind."),)),
        ),
        ("question_answer", {"question": "1 + 2?", "answer": "3", "solution": "x"}, Example((said("1 + 2?", "3"),))),
        ("question_answer", {"question": "1 + 2?", "answer": None, "solution": "3"}, Example((said("1 + 2?", "3"),))),
        ("question_answer", {"question": "1 + 2?", "response": "3"}, Example((said("1 + 2?", "3"),))),
        (
            "user_assistant",
            {"user": "Hi", "assistant": "Hello", "system": "Be kind."},
            Example((said("Hi", "Hello", system="Be kind."),)),
        ),
        ("text", {"text": " Once upon a time.\n", "id": 3}, Example(text=" Once upon a time.\n")),
    ],
)
def test_what_a_row_says(name: str, row: dict[str, Any], expected: Example) -> None:
    """A row is found to be of its format, and gives its texts as they stand, in their order, and nothing else."""
    assert detect(row) == name
    assert FORMATS[name](row) == expected


@pytest.mark.parametrize("column", ["cot", "chain_of_thought", "reasoning", "thinking", "rationale"])
@pytest.mark.parametrize(
    "pair", [("prompt", "completion"), ("instruction", "output"), ("question", "answer"), ("user", "assistant")]
)
def test_a_chain_of_thought_is_the_answers(pair: tuple[str, str], column: str) -> None:
    """A column with a chain of thought is what the answer thinks; an empty one is nothing."""
    row = dict(zip(pair, ("Hi", "Hello"), strict=True))
    make = FORMATS[detect(row)]
    assert make({**row, column: "Be nice"}).conversations == (said("Hi", "Hello", thinking="Be nice"),)
    assert make({**row, column: ""}).conversations == (HI,)


KIND = said("Hi", "Hello", system="Be kind.")


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        (KIND[:2], KIND, KIND),
        (KIND[:2], HI, KIND),
        (HI[:1], KIND, KIND),
        ("Bye", BYE, BYE),
        ("Hi ", HI, HI),
        (said("A", "B", "A"), said("A", "B"), said("A", "B", "A", "B")),
        ("Other", HI, [{"role": "user", "content": "Other"}, *HI]),
    ],
)
def test_a_prompt_is_said_once(prompt: Any, answer: list[Message], expected: list[Message]) -> None:
    """Messages of the prompt that the answer's messages have too are not doubled, and none is lost."""
    assert FORMATS["prompt_completion"]({"prompt": prompt, "completion": answer}).conversations == (expected,)


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({"tools": [LOOK]}, Example((HI,), tools=(LOOK,))),
        ({"functions": [{"name": "look"}]}, Example((HI,), tools=({"name": "look"},))),
        ({"tools": [], "enable_thinking": None, "chat_template_kwargs": None, "system": None}, Example((HI,))),
        ({"enable_thinking": True}, Example((HI,), thinking=True)),
        ({"enable_thinking": "False"}, Example((HI,), thinking=False)),
        (
            {"chat_template_kwargs": {"enable_thinking": False, "xml_tools": [], "custom_instructions": ""}},
            Example((HI,), thinking=False),
        ),
        (
            {"chat_template_kwargs": {"xml_tools": ["{'name': 'look'}"], "python_tools": [LOOK]}},
            Example((HI,), tools=("{'name': 'look'}",), python_tools=(LOOK,)),
        ),
        ({"chat_template_kwargs": '{"custom_instructions": "Be kind."}'}, Example((KIND,))),
    ],
)
def test_what_stands_beside_the_messages(beside: dict[str, Any], expected: Example) -> None:
    """Tools, the mode and instructions come from columns of their own, or from smoltalk2's one."""
    assert FORMATS["messages"]({"messages": HI, **beside}) == expected


def test_a_system_turn_goes_before_custom_instructions() -> None:
    """As in SmolLM3's template, a system turn is in place of the custom instructions."""
    row = {"messages": KIND, "chat_template_kwargs": {"custom_instructions": "Be brief."}}
    assert FORMATS["messages"](row).conversations == (KIND,)


@pytest.mark.parametrize(
    ("name", "row", "reason", "detail"),
    [
        ("preference", {"chosen": "Hello", "rejected": "What?"}, "no_prompt", 'chosen, "Hello"'),
        ("preference", {"chosen": HI, "rejected": said("Ho", "What?")}, "no_prompt", '"content": "Hi"'),
        ("preference", {"prompt": "Hi", "chosen": "No.", "rejected": "No. "}, "same_answers", '"No."'),
        ("preference", {"prompt": "Hi", "chosen": "Hello", "rejected": {"a": 1}}, "not_text", 'rejected is {"a": 1}'),
        ("preference", {"chosen": DIALOGUE, "rejected": DIALOGUE + " x"}, "empty", "chosen is empty"),
        ("kto", {"prompt": "Hi", "completion": "Hello", "label": "algebra"}, "not_boolean", 'label is "algebra"'),
        ("ranked", {"prompt": "Hi", "completions": []}, "no_messages", "completions is []"),
        ("ranked", {"prompt": "Hi", "answers": {"text": ["3"]}}, "no_messages", 'answers is {"text": ["3"]}'),
        ("ranked", {"prompt": "Hi", "outputs": ["Hello", 3]}, "not_text", "one of outputs is 3"),
        ("messages", {"messages": []}, "no_messages", "messages is []"),
        ("messages", {"messages": None}, "no_messages", "messages is null"),
        ("messages", {"messages": "Hi"}, "no_messages", 'messages is "Hi"'),
        ("messages", {"messages": HI, "tools": "hammer"}, "bad_tools", 'tools is "hammer"'),
        ("messages", {"messages": HI, "tools": [3]}, "bad_tools", "tools is [3]"),
        ("messages", {"messages": HI, "chat_template_kwargs": [1]}, "bad_tools", "chat_template_kwargs is [1]"),
        ("messages", {"messages": HI, "enable_thinking": "auto"}, "not_boolean", 'enable_thinking is "auto"'),
        ("messages", {"messages": KIND, "system": "No."}, "bad_message", 'column is "No.", the system turn "Be kind."'),
        ("messages", {"messages": HI, "system": {"a": 1}}, "not_text", 'system is {"a": 1}'),
        ("conversations", {"conversations": {"from": "human"}}, "no_messages", 'conversations is {"from": "human"}'),
        ("prompt_completion", {"prompt": "Hi"}, "not_text", "completion is null"),
        ("prompt_completion", {"prompt": "Hi", "completion": ""}, "empty", "completion is empty"),
        ("prompt_completion", {"prompt": "Hi", "completion": "x", "cot": 5}, "not_text", "cot is 5"),
        ("alpaca", {"instruction": "Add", "input": ["1"], "output": "3"}, "not_text", 'input is ["1"]'),
        ("alpaca", {"instruction": "", "input": "1", "output": "3"}, "empty", "instruction is empty"),
        ("question_answer", {"question": "1 + 2?", "answer": 3}, "not_text", "answer is 3"),
        ("user_assistant", {"user": "Hi", "assistant": " \n"}, "empty", "assistant is empty"),
        ("text", {"text": ["Hi"]}, "not_text", 'text is ["Hi"]'),
    ],
)
def test_reason_of_a_bad_row(name: str, row: dict[str, Any], reason: str, detail: str) -> None:
    """A row that has a format's columns but not their sense says what is wrong with it, and shows it."""
    with pytest.raises(BadRow) as caught:
        FORMATS[name](row)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


@pytest.mark.parametrize("value", [["x" * 1000], {"x": [{"y": "z" * 1000}]}, [1] * 1000])
def test_details_are_short(value: Any) -> None:
    """A detail shows the start of what was there, not all of it."""
    with pytest.raises(BadRow) as caught:
        FORMATS["question_answer"]({"question": value, "answer": "y"})
    assert len(caught.value.detail) < 100


def test_a_deep_value_is_shown() -> None:
    """A value nested deeper than Python can follow is refused like any other."""
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(BadRow, match=r"text is \[{57}\.\.\."):
        FORMATS["text"]({"text": deep})


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_found_by_its_columns(name: str) -> None:
    """A row with one column of each of a format's groups, and others, is of that format, and the format has a kind."""
    assert detect({"id": 1, **{group[0]: "x" for group in COLUMNS[name]}}) == name
    assert KINDS[name] in (*USABLE["sft"], *USABLE["dpo"], "labelled", "ranked")


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ("prompt chosen rejected messages", "preference"),
        ("prompt completion label", "kto"),
        ("prompt completion messages", "messages"),
        ("messages conversations", "messages"),
        ("prompt completion answers", "prompt_completion"),
        ("prompt response instruction output", "prompt_completion"),
        ("prompt completions text", "ranked"),
        ("question answer instruction output", "alpaca"),
        ("system_prompt question response", "question_answer"),
        ("user assistant text", "user_assistant"),
    ],
)
def test_the_most_telling_columns_win(columns: str, name: str) -> None:
    """A row that has the columns of two formats is of the more telling one, in whatever order its columns are."""
    assert detect(dict.fromkeys(columns.split(), "x")) == name
    assert detect(dict.fromkeys(reversed(columns.split()), "x")) == name


def test_a_null_column_is_no_column() -> None:
    """Tables that mix formats have every column in every row: a null one does not tell the format."""
    row = dict.fromkeys(("messages", "chosen", "rejected", "label", "text"))
    assert detect({**row, "prompt": "Hi", "completion": "Hello"}) == "prompt_completion"
    assert detect({**row, "text": "Hi"}) == "text"


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ({"body": "Hi", "id": None}, "columns are body, id"),
        ({"text": None}, "columns are text"),
        ({}, "columns are none"),
    ],
)
def test_an_unknown_format_names_the_columns(row: dict[str, Any], detail: str) -> None:
    """A row of no known format says what columns it has."""
    with pytest.raises(BadRow) as caught:
        detect(row)
    assert (caught.value.reason, caught.value.detail) == ("unknown_format", detail)


def test_earlier_exchanges_of_an_instruction() -> None:
    """LLaMA-Factory's history comes before the instruction, or the row is a bad one."""
    row = {"instruction": "Three?", "output": "3", "history": [["One?", "1"], ["Two?", "2"]]}
    (said,) = FORMATS["alpaca"](row).conversations
    assert [message["content"] for message in said] == ["One?", "1", "Two?", "2", "Three?", "3"]
    assert [message["role"] for message in said] == ["user", "assistant"] * 3
    with pytest.raises(BadRow, match="history is"):
        FORMATS["alpaca"]({**row, "history": "One?"})
