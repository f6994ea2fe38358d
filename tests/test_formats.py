"""Each format of rows gives exactly its messages, or says why it cannot."""

from typing import Any

import pytest

from smollm3_ft.formats import COLUMNS, FORMATS, BadRow, detect


def said(*turns: str) -> list[dict[str, str]]:
    """Turns of user and assistant by turns."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("messages", {"messages": said("Hi", "Hello", "Bye", "See you")}, said("Hi", "Hello", "Bye", "See you")),
        (
            "messages",
            {"messages": [{"role": "system", "content": "Be kind.", "weight": 1}, *said("Hi", "Hello")], "id": 7},
            [{"role": "system", "content": "Be kind."}, *said("Hi", "Hello")],
        ),
        ("messages", {"messages": [{**turn, "tool_calls": None} for turn in said("Hi", "Hello")]}, said("Hi", "Hello")),
        (
            "conversations",
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            said("Hi", "Hello"),
        ),
        (
            "conversations",
            {
                "conversations": [
                    {"from": "system", "value": "Be kind."},
                    {"from": "user", "value": "Hi"},
                    {"from": "assistant", "value": "Hello"},
                ]
            },
            [{"role": "system", "content": "Be kind."}, *said("Hi", "Hello")],
        ),
        ("prompt_completion", {"prompt": "Hi", "completion": " Hello "}, said("Hi", " Hello ")),
        ("alpaca", {"instruction": "Add", "input": "1 and 2", "output": "3"}, said("Add\n\n1 and 2", "3")),
        ("alpaca", {"instruction": "Add 1 and 2", "input": "", "output": "3"}, said("Add 1 and 2", "3")),
        ("alpaca", {"instruction": "Add 1 and 2", "input": None, "output": "3"}, said("Add 1 and 2", "3")),
        ("alpaca", {"instruction": "Add 1 and 2", "output": "3"}, said("Add 1 and 2", "3")),
        ("question_answer", {"question": "1 + 2?", "answer": "3", "source": "x"}, said("1 + 2?", "3")),
    ],
)
def test_messages_of_a_format(name: str, row: dict[str, Any], expected: list[dict[str, str]]) -> None:
    """A row gives its texts as they stand, in their order, and nothing else."""
    assert FORMATS[name](row) == expected


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("messages", {"messages": []}, "no_messages"),
        ("messages", {"messages": None}, "no_messages"),
        ("messages", {"messages": "Hi"}, "no_messages"),
        ("messages", {"messages": ["Hi"]}, "bad_message"),
        ("messages", {"messages": [{"role": "user"}]}, "not_text"),
        ("messages", {"messages": [{"content": "Hi"}]}, "not_text"),
        ("messages", {"messages": [{"role": "user", "content": 5}]}, "not_text"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, "not_text"),
        ("messages", {"messages": [{"role": "user", "content": " \n"}]}, "empty"),
        ("messages", {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]}, "tool_calls"),
        ("conversations", {"conversations": [{"from": "tool", "value": "Hi"}]}, "unknown_role"),
        ("conversations", {"conversations": [{"from": "human"}]}, "not_text"),
        ("conversations", {"conversations": {"from": "human", "value": "Hi"}}, "no_messages"),
        ("prompt_completion", {"prompt": "Hi"}, "not_text"),
        ("prompt_completion", {"prompt": "Hi", "completion": ""}, "empty"),
        ("prompt_completion", {"prompt": said("Hi"), "completion": said("Hi", "Hello")[1:]}, "not_text"),
        ("alpaca", {"instruction": "Add", "input": ["1"], "output": "3"}, "not_text"),
        ("alpaca", {"instruction": "", "input": "1", "output": "3"}, "empty"),
        ("question_answer", {"question": "1 + 2?", "answer": 3}, "not_text"),
    ],
)
def test_reason_of_a_bad_row(name: str, row: dict[str, Any], reason: str) -> None:
    """A row that has a format's columns but not their sense says what is wrong with it."""
    with pytest.raises(BadRow) as caught:
        FORMATS[name](row)
    assert caught.value.reason == reason
    assert caught.value.detail


def test_details_are_short() -> None:
    """A detail shows the start of what was there, not all of it."""
    with pytest.raises(BadRow) as caught:
        FORMATS["prompt_completion"]({"prompt": ["x" * 1000], "completion": "y"})
    assert len(caught.value.detail) < 100


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_found_by_its_columns(name: str) -> None:
    """A row with a format's columns, and others, is of that format."""
    assert detect({"id": 1, **dict.fromkeys(COLUMNS[name], "x")}) == name


def test_the_most_telling_columns_win() -> None:
    """A row that has the columns of two formats is of the more telling one."""
    assert detect({"prompt": "Hi", "completion": "Hello", "messages": [1]}) == "messages"
    assert detect({"question": "a", "answer": "b", "instruction": "c", "output": "d"}) == "alpaca"


def test_a_null_column_is_no_column() -> None:
    """Tables that mix formats have every column in every row: a null one does not tell the format."""
    assert detect({"messages": None, "prompt": "Hi", "completion": "Hello"}) == "prompt_completion"


@pytest.mark.parametrize(("row", "detail"), [({"text": "Hi"}, "columns are text"), ({}, "columns are none")])
def test_an_unknown_format_names_the_columns(row: dict[str, Any], detail: str) -> None:
    """A row of no known format says what columns it has."""
    with pytest.raises(BadRow) as caught:
        detect(row)
    assert (caught.value.reason, caught.value.detail) == ("unknown_format", detail)
