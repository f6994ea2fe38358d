"""A message is taken as it stands, in OpenAI's names or ShareGPT's, or says why it cannot be."""

import json
from typing import Any

import pytest

from smollm3_ft.turns import BadRow, messages

LOOK = {"name": "look", "arguments": {"at": "sky"}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [LOOK]}
WRAPPED = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"role": "user", "content": " Hi\n"}, {"role": "user", "content": " Hi\n"}),
        ({"role": "user", "content": "Hi", "weight": 1, "name": "Bo"}, {"role": "user", "content": "Hi"}),
        ({"role": "user", "content": "Hi", "tool_calls": None, "reasoning": None}, {"role": "user", "content": "Hi"}),
        ({"role": "user", "content": "Hi", "tool_calls": [], "thinking": ""}, {"role": "user", "content": "Hi"}),
        ({"from": "human", "value": "Hi", "weight": None}, {"role": "user", "content": "Hi"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "H", "image": None}, "i ", {"text": "you"}]},
            {"role": "user", "content": "Hi you"},
        ),
        ({"role": "assistant", "content": None, "tool_calls": [WRAPPED]}, CALLED),
        ({"role": "assistant", "content": "", "tool_calls": [LOOK]}, CALLED),
        ({"role": "assistant", "tool_calls": json.dumps([WRAPPED])}, CALLED),
        ({"role": "assistant", "content": None, "function_call": WRAPPED["function"]}, CALLED),
        ({"from": "function_call", "value": json.dumps(LOOK)}, CALLED),
        ({"from": "function_call", "value": json.dumps([LOOK, LOOK])}, {**CALLED, "tool_calls": [LOOK, LOOK]}),
        (
            {"role": "assistant", "content": "So:", "tool_calls": [{"name": "look", "arguments": "sky"}]},
            {"role": "assistant", "content": "So:", "tool_calls": [{"name": "look", "arguments": "sky"}]},
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": None}]},
            {**CALLED, "tool_calls": [{"name": "look", "arguments": {}}]},
        ),
        ({"role": "tool", "content": "Blue", "name": "look"}, {"role": "tool", "content": "Blue", "name": "look"}),
        ({"role": "tool", "content": "Blue", "tool_call_id": "1"}, {"role": "tool", "content": "Blue"}),
    ],
)
def test_what_a_turn_says(turn: dict[str, Any], expected: dict[str, Any]) -> None:
    """A turn gives its role, text, calls and name, and nothing that a model does not see."""
    assert messages({"turns": [turn]}, "turns") == [expected]


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_what_a_turn_thinks(key: str) -> None:
    """An answer's thinking has one name, whatever its name was."""
    turn = {"role": "assistant", "content": "Hi", key: " Greet.\n"}
    assert messages({"turns": [turn]}, "turns") == [{"role": "assistant", "content": "Hi", "thinking": " Greet.\n"}]


@pytest.mark.parametrize(
    ("names", "role"),
    [
        ("system developer", "system"),
        ("user human prompter", "user"),
        ("assistant gpt chatgpt bing bard model ai bot", "assistant"),
        ("tool function observation function_response ipython", "tool"),
    ],
)
def test_names_of_roles(names: str, role: str) -> None:
    """The names that people give the four roles."""
    turns = [{"from": name, "value": "Hi"} for name in names.split()]
    assert [message["role"] for message in messages({"turns": turns}, "turns")] == [role] * len(turns)


@pytest.mark.parametrize(
    ("turn", "reason", "detail"),
    [
        ("Hi", "bad_message", 'a turn is "Hi"'),
        ({"role": "user", "content": "Hi", "thinking": "Greet."}, "bad_message", "a turn of the user thinks or calls"),
        ({"role": "tool", "content": "Hi", "tool_calls": [LOOK]}, "bad_message", "a turn of the tool thinks or calls"),
        ({"role": "user"}, "not_text", "content is null"),
        ({"content": "Hi"}, "not_text", "role is null"),
        ({"role": ["user"], "content": "Hi"}, "not_text", 'role is ["user"]'),
        ({"from": "human"}, "not_text", "value is null"),
        ({"role": "user", "content": {"text": "Hi"}}, "not_text", 'content is {"text": "Hi"}'),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "not_text", 'is {"type": "image_url"'),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "not_text", '"text": 5'),
        ({"role": "assistant", "content": 5, "tool_calls": [LOOK]}, "not_text", "content is 5"),
        ({"role": "assistant", "content": "Hi", "thinking": True}, "not_text", "thinking is true"),
        ({"role": "user", "content": " \n"}, "empty", "content is empty"),
        ({"role": "user", "content": []}, "empty", "content is empty"),
        ({"role": "assistant", "content": "", "tool_calls": []}, "empty", "content is empty"),
        ({"role": "narrator", "content": "Hi"}, "unknown_role", 'role is "narrator"'),
        ({"from": "narrator", "value": "Hi"}, "unknown_role", 'from is "narrator"'),
        ({"role": "assistant", "tool_calls": [{"id": 1}]}, "bad_tool_call", 'a tool call is {"id": 1}'),
        ({"role": "assistant", "tool_calls": "look(sky)"}, "bad_tool_call", 'a tool call is "look(sky)"'),
        ({"role": "assistant", "tool_calls": [{"name": " "}]}, "bad_tool_call", 'a tool call is {"name": " "}'),
        ({"role": "assistant", "tool_calls": [{"name": "look", "arguments": [1]}]}, "bad_tool_call", '"look" are [1]'),
        ({"from": "function_call", "value": "look"}, "bad_tool_call", 'a tool call is "look"'),
        ({"from": "function_call", "value": None}, "bad_tool_call", "a tool call is null"),
    ],
)
def test_reason_of_a_bad_turn(turn: Any, reason: str, detail: str) -> None:
    """A turn that cannot be used says what is wrong with it, and shows it."""
    with pytest.raises(BadRow) as caught:
        messages({"turns": [turn]}, "turns")
    assert caught.value.reason == reason
    assert detail in caught.value.detail


@pytest.mark.parametrize("empty", [{"role": "system", "content": ""}, {"from": "system", "value": " "}])
def test_an_empty_system_turn_is_none(empty: dict[str, str]) -> None:
    """A system turn that says nothing is left out; a user's that says nothing is a bad row."""
    assert messages({"messages": [empty, {"role": "user", "content": "Hi"}]}, "messages") == [
        {"role": "user", "content": "Hi"}
    ]
    with pytest.raises(BadRow, match="empty"):
        messages({"messages": [{"role": "user", "content": ""}]}, "messages")


@pytest.mark.parametrize("arguments", ['{"city": "Bonn", "city": "Rome"}', '{"days": 1e999}', '{"days": NaN}'])
def test_arguments_that_would_not_be_whole_stay_text(arguments: str) -> None:
    """Of arguments in JSON text, a repeated key and a number that cannot be held are not lost."""
    call = {"name": "weather", "arguments": arguments}
    row = {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    }
    assert messages(row, "messages")[1]["tool_calls"] == [call]


@pytest.mark.parametrize("empty", ["", None])
def test_a_tool_may_have_nothing_to_say(empty: str | None) -> None:
    """A tool's empty result is a turn all the same."""
    assert messages({"messages": [{"role": "tool", "content": empty}]}, "messages") == [{"role": "tool", "content": ""}]


@pytest.mark.parametrize(
    ("key", "value", "kept_out"),
    [
        ("weight", 0, True),
        ("weight", 1, False),
        ("weight", None, False),
        ("train", False, True),
        ("training", False, True),
    ],
)
def test_answers_that_are_not_to_be_learnt(key: str, value: Any, kept_out: bool) -> None:
    """A weight of 0, or the flag of other tools, keeps an answer out of the loss."""
    (message,) = messages({"messages": [{"role": "assistant", "content": "Hi", key: value}]}, "messages")
    assert (message.get("trained") is False) is kept_out
