"""Rows as conversations: turns in order, thinking as SmolLM3 means it, tools never lost, digests of what is said."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from smollm3_ft import chat as chats
from smollm3_ft import conversations
from smollm3_ft.chat import Chat
from smollm3_ft.config import Data
from smollm3_ft.conversations import Asked, Note
from smollm3_ft.formats import BadRow
from smollm3_ft.rendering import Question

HERE = Path(__file__).parent
ASKS, ANSWERS = {"role": "user", "content": "One?"}, {"role": "assistant", "content": "1."}
THINKS = {"role": "assistant", "content": "<think>\nhm\n</think>\n1."}


@pytest.fixture(scope="module")
def tiny_chat(tiny: Path) -> Chat:
    return chats.load(tiny)


@pytest.fixture(scope="module")
def smollm3(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """The chat of a model whose template does what SmolLM3's does."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("chat") / "model")
    shutil.copyfile(HERE / "smollm3_like.jinja", folder / "chat_template.jinja")
    return chats.load(folder)


def read(row: dict[str, Any], chat: Chat, method: str | None = "sft", **given: Any) -> Asked:
    return conversations.read(row, {}, "auto", Data(**given), chat, method)


def question(chat: Chat, *messages: dict[str, Any], beside: dict[str, Any] | None = None, **given: Any) -> Question:
    """What becomes of a row of messages."""
    (asked,) = read({"messages": list(messages), **(beside or {})}, chat, **given).questions
    return asked


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ("user", "one_sided"),
        ("assistant", "one_sided"),
        ("system", "empty"),
        ("assistant user", "roles_out_of_order"),
        ("user user assistant", "roles_out_of_order"),
        ("user assistant assistant", "roles_out_of_order"),
        ("user assistant user", "roles_out_of_order"),
        ("user assistant system user assistant", "roles_out_of_order"),
        ("user tool assistant", "roles_out_of_order"),
        ("user assistant tool", "roles_out_of_order"),
    ],
)
def test_turns_that_are_out_of_order(roles: str, reason: str) -> None:
    """Who speaks after whom is checked, and each fault counted by its own name."""
    with pytest.raises(BadRow) as caught:
        conversations.check_turns([{"role": role, "content": "x"} for role in roles.split()])
    assert caught.value.reason == reason


@pytest.mark.parametrize("roles", ["user assistant", "system user assistant", "user assistant tool tool assistant"])
def test_turns_in_order(roles: str) -> None:
    """A system message, turns, and what tools say to the assistant are in order."""
    conversations.check_turns([{"role": role, "content": "x"} for role in roles.split()])


@pytest.mark.parametrize("column", ["bad_entry", "bad_prompt_detected", "bad_response_detected"])
def test_entries_flagged_as_bad(tiny_chat: Chat, column: str) -> None:
    """A row that its dataset calls bad is left out; one that it does not is not."""
    row = {"prompt": "One?", "completion": "1."}
    with pytest.raises(BadRow, match="flagged_bad"):
        read({**row, column: True}, tiny_chat)
    assert read({**row, column: False}, tiny_chat).format == "prompt_completion"


@pytest.mark.parametrize(
    ("method", "row", "usable"),
    [
        ("sft", {"text": "Prose."}, True),
        ("sft", {"prompt": "One?", "chosen": "1.", "rejected": "2."}, False),
        ("dpo", {"prompt": "One?", "chosen": "1.", "rejected": "2."}, True),
        ("dpo", {"prompt": "One?", "completion": "1."}, False),
        ("sft", {"prompt": "One?", "completion": "1.", "label": True}, False),
        (None, {"prompt": "One?", "completion": "1.", "label": True}, True),
        (None, {"prompt": "One?", "completions": ["1.", "2."]}, True),
    ],
)
def test_a_method_uses_some_formats(tiny_chat: Chat, method: str | None, row: dict[str, Any], usable: bool) -> None:
    """Rows of a format that the method cannot use are named so; judged by their format alone, they are fine."""
    if usable:
        read(row, tiny_chat, method)
    else:
        with pytest.raises(BadRow, match="unused_by_method"):
            read(row, tiny_chat, method)


@pytest.mark.parametrize(
    ("messages", "beside", "setting", "expected"),
    [
        ([ASKS, ANSWERS], {}, "auto", False),
        ([ASKS, THINKS], {}, "auto", True),
        ([ASKS, {"role": "assistant", "content": "<think>\n\n</think>\n1."}], {}, "auto", False),
        ([ASKS, ANSWERS], {"enable_thinking": True}, "auto", True),
        ([ASKS, ANSWERS], {"chat_template_kwargs": {"enable_thinking": True}}, "auto", True),
        ([ASKS, ANSWERS], {}, "on", True),
        ([ASKS, THINKS], {}, "off", False),
        ([system("Be kind. /think"), ASKS, ANSWERS], {}, "auto", True),
        ([system("/no_think"), ASKS, ANSWERS], {}, "auto", False),
        ([system("/no_think"), ASKS, ANSWERS], {"enable_thinking": True}, "auto", True),
    ],
)
def test_who_thinks(
    smollm3: Chat, messages: list[dict[str, str]], beside: dict[str, Any], setting: str, expected: bool
) -> None:
    """data.thinking decides, or else the row's own word, its switch, or its answers."""
    assert question(smollm3, *messages, beside=beside, thinking=setting).thinking is expected


def test_a_switch_is_no_text(smollm3: Chat) -> None:
    """SmolLM3's switch leaves the system message; where nothing else is in it, there is none."""
    assert question(smollm3, system("Be kind. /no_think"), ASKS, ANSWERS).messages[0] == system("Be kind.")
    assert question(smollm3, system("/think"), ASKS, ANSWERS).messages[0] == ASKS


def test_a_switch_is_text_to_other_templates(tiny_chat: Chat) -> None:
    """A template that knows no switches gets the system message as it is."""
    assert question(tiny_chat, system("Be kind. /think"), ASKS, ANSWERS).messages[0] == system("Be kind. /think")


def test_a_column_of_thoughts_goes_before_the_answer(smollm3: Chat) -> None:
    """A chain of thought beside the answer is trained as SmolLM3 thinks."""
    (asked,) = read({"question": "One?", "answer": "1.", "cot": "hm"}, smollm3).questions
    assert asked.thinking
    assert asked.messages[1]["content"] == "<think>\nhm\n</think>\n1."


def test_thoughts_that_are_not_wanted(smollm3: Chat) -> None:
    """data.thinking=off takes thoughts out of the answers, and counts that."""
    asked = read({"messages": [ASKS, THINKS]}, smollm3, thinking="off")
    assert asked.questions[0].messages[1]["content"] == "1."
    assert asked.notes == Note.THOUGHTS_REMOVED


def test_an_answer_that_is_nothing_but_a_thought(smollm3: Chat) -> None:
    """Without its thought nothing is left to train on."""
    with pytest.raises(BadRow, match="nothing but a thought"):
        question(smollm3, ASKS, {"role": "assistant", "content": "<think>hm</think>"}, thinking="off")


def test_an_empty_thought_is_written_once(smollm3: Chat, tiny_chat: Chat) -> None:
    """A template that writes an empty thought gets the answer without its own; another gets it as it is."""
    empty = {"role": "assistant", "content": "<think>\n\n</think>\n1."}
    assert conversations.render(smollm3, question(smollm3, ASKS, empty))[0].text.count("<think>") == 1
    assert question(tiny_chat, ASKS, empty).messages[1] == empty


TOOL = {"name": "weather", "parameters": {"type": "object"}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": {"city": "Bonn"}}]}
CALLING = (ASKS, CALLS, {"role": "tool", "content": "rain"}, ANSWERS)


def test_lost_tool_calls_become_text(smollm3: Chat) -> None:
    """SmolLM3's template writes no calls: they go into the answer, and the tools where the template has them."""
    rendered, repaired = conversations.render(smollm3, question(smollm3, *CALLING, beside={"tools": [TOOL]}))
    assert repaired
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
    assert f"assistant\n<think>\n\n</think>\n{call}<|im_end|>\n<|im_start|>user\nrain<|im_end|>" in rendered.text
    assert "<tools>\n{'name': 'weather'" in rendered.text


def test_tools_that_a_template_refuses_become_text(tiny_chat: Chat) -> None:
    """A template without tools gets them in the system message, calls in the answer, results in the user's turn."""
    rendered, repaired = conversations.render(tiny_chat, question(tiny_chat, *CALLING, beside={"tools": [TOOL]}))
    assert repaired
    assert rendered.text.startswith("<|im_start|>system\nYou may call these functions:\n<tools>\n{")
    assert "<|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>" in rendered.text


def test_tools_called_in_code(smollm3: Chat) -> None:
    """SmolLM3's other kind of tools is handed to the template under its own name."""
    settings = {"chat_template_kwargs": {"python_tools": ["look(place)"]}}
    rendered, repaired = conversations.render(smollm3, question(smollm3, ASKS, ANSWERS, beside=settings))
    assert "def look(place)\n</tools>" in rendered.text
    assert not repaired


def test_results_of_several_calls_are_one_turn(tiny_chat: Chat) -> None:
    """What several tools say in a row is one turn of the user's."""
    results = [{"role": "tool", "content": "rain"}, {"role": "tool", "content": "sun"}]
    rendered, _ = conversations.render(tiny_chat, question(tiny_chat, ASKS, CALLS, *results, ANSWERS))
    said = "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>"
    assert f"user\n{said}<|im_end|>" in rendered.text


def test_a_later_system_message_is_not_lost_unseen(smollm3: Chat) -> None:
    """A conversation whose system message comes late is a bad row, not one without it."""
    with pytest.raises(BadRow, match="system after assistant"):
        question(smollm3, ASKS, ANSWERS, system("Be kind."), ASKS, ANSWERS)


@pytest.mark.parametrize("text", ["\ufdd0", "\ufdd3", "\ud83d"])
def test_texts_that_are_none(text: str) -> None:
    """Noncharacters that mark places for us, and half a character, are no text."""
    with pytest.raises(BadRow):
        conversations.check_text(f"a{text}b")


def test_half_a_character_in_a_call(tiny_chat: Chat) -> None:
    """A tool call's arguments are text too."""
    calls = {**CALLS, "tool_calls": [{"name": "weather", "arguments": {"city": "\ud83d"}}]}
    with pytest.raises(BadRow, match="lone_surrogate"):
        question(tiny_chat, ASKS, calls, *CALLING[2:])


@pytest.mark.parametrize(
    "messages",
    [
        [ASKS, {**ANSWERS, "reasoning_content": "\ud83d"}],
        [ASKS, ANSWERS, {"role": "tool", "content": "rain", "name": "\ud83d"}, ANSWERS],
    ],
)
def test_half_a_character_beside_a_text(tiny_chat: Chat, messages: list[dict[str, Any]]) -> None:
    """A thought and the name of a tool are text too."""
    with pytest.raises(BadRow, match="lone_surrogate"):
        question(tiny_chat, *messages)


@pytest.mark.parametrize("row", [{"ask": "One?", "prompt": "No."}, {"prompt": "No.", "ask": "One?"}])
def test_a_column_that_is_named_goes_first(tiny_chat: Chat, row: dict[str, str]) -> None:
    """data.columns decides, wherever another column stands that has the name by itself."""
    asked = conversations.read({**row, "completion": "1."}, {"ask": "prompt"}, "auto", Data(), tiny_chat, "sft")
    assert asked.questions[0].messages[0] == ASKS


def test_a_thought_in_both_places_is_thought_once(smollm3: Chat) -> None:
    """A thought that stands in the answer and beside it is the answer's; another one goes before it."""
    assert question(smollm3, ASKS, {**THINKS, "thinking": "hm"}).messages[1] == THINKS
    twice = question(smollm3, ASKS, {**THINKS, "thinking": "so"}).messages[1]["content"]
    assert twice == f"<think>\nso\n</think>\n{THINKS['content']}"


def test_thoughts_that_stay_are_not_counted_as_removed(smollm3: Chat) -> None:
    """What looks like a thought amid an answer is its text: data.thinking=off leaves it, and counts nothing."""
    asked = read({"messages": [ASKS, {**ANSWERS, "content": "So <think>hm</think> 1."}]}, smollm3, thinking="off")
    assert asked.questions[0].messages[1]["content"] == "So <think>hm</think> 1."
    assert asked.notes == Note(0)


@pytest.mark.parametrize("beside", [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}])
def test_a_thought_that_nobody_asked_for(smollm3: Chat, tiny_chat: Chat, beside: dict[str, Any]) -> None:
    """A row that is said not to think and does is a bad one, where the template would write an empty thought first."""
    with pytest.raises(BadRow, match="unasked_thought"):
        question(smollm3, ASKS, THINKS, beside=beside)
    assert question(tiny_chat, ASKS, THINKS, beside=beside).messages[1] == THINKS
