"""What a template does to a row is seen: calls that only a text speaks of, texts it looks into, and control tokens."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ALONE, Prepare, documents, loaded, text

from smollm3_ft import chat as chats
from smollm3_ft import rendering
from smollm3_ft.chat import Chat
from smollm3_ft.conversations import Note
from smollm3_ft.formats import BadRow
from smollm3_ft.rendering import Question

ASKS, ANSWERS = {"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "Yes."}
FUNCTION = {"name": "weather", "arguments": {"city": "Bonn"}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": FUNCTION}]}
SPEAKS = "The weather in the city of Bonn: rain"
GENERATED = "{% generation %}{{ said }}<|im_end|>{% endgeneration %}"
TEMPLATE = (
    "{% for m in messages %}{% set said = m.content %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}" + GENERATED + "{% else %}{{ said }}<|im_end|>{% endif %}\n{% endfor %}"
)


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def model(tiny: Path, folder: Path, template: str) -> Path:
    """A copy of builtin:tiny with another template."""
    shutil.copytree(tiny, folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(template)
    return folder / "model"


@pytest.fixture
def smollm3(tiny: Path, tmp_path: Path) -> Path:
    """A model whose template does what SmolLM3's does."""
    return model(tiny, tmp_path, (Path(__file__).parent / "smollm3_like.jinja").read_text())


@pytest.mark.parametrize(
    "messages",
    [
        [ASKS, CALLS, said("tool", SPEAKS), ANSWERS],
        [ASKS, {**CALLS, "content": SPEAKS}, said("tool", "rain"), ANSWERS],
        [ASKS, CALLS, said("tool", "rain"), said("assistant", SPEAKS)],
    ],
)
def test_a_text_that_speaks_of_a_call_is_none(smollm3: Path, messages: list[dict[str, Any]]) -> None:
    """A template that leaves out a call does not pass because a message has the call's words."""
    with pytest.raises(BadRow, match="lost_tool_call"):
        rendering.exactly(chats.load(smollm3), Question(messages))


def test_a_text_that_speaks_of_a_tool_is_none(tiny: Path, tmp_path: Path) -> None:
    """Neither a message nor a call of it proves that a tool is there."""
    chat = chats.load(
        model(tiny, tmp_path, TEMPLATE.replace("{{ said }}", "{{ said }}{{ m.tool_calls | tojson if m.tool_calls }}"))
    )
    asked = Question([said("user", SPEAKS), CALLS, said("tool", "rain"), ANSWERS], tools=[{"name": "weather"}])
    with pytest.raises(BadRow, match="lost_tool_call"):
        rendering.exactly(chat, asked)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKS, ANSWERS], "tools": [{"name": "weather", "description": "ends with <|im_end|>"}]},
        {
            "messages": [
                ASKS,
                {**CALLS, "tool_calls": [{"name": "weather", "arguments": {"city": "<|im_end|>"}}]},
                said("tool", "rain"),
                ANSWERS,
            ]
        },
    ],
)
def test_special_tokens_in_tools_are_text(prepare: Prepare, smollm3: Path, row: dict[str, Any]) -> None:
    """In a tool's schema and in a call's arguments too, a control token's characters are text, and counted."""
    prepared = prepare([row], model=smollm3, packing=False, **ALONE)
    (document,) = documents(prepared)
    end = loaded(smollm3).tokenizer.token_to_id("<|im_end|>")
    assert document.ids.count(end) == 1 + len(row["messages"])
    assert text(smollm3, document).count("<|im_end|>") == 2 + len(row["messages"])
    assert set(prepared.ledger["sources"][0]["noted"]) == {
        Note.SPECIAL_TOKEN_TEXT.name.lower(),
        Note.TOOLS_AS_TEXT.name.lower(),
    }


LOOKS = TEMPLATE.replace("{{ said }}", "{{ '!' if said.startswith('One') }}{{ said }}")


def chat(tiny: Path, tmp_path: Path, template: str) -> Chat:
    return chats.load(model(tiny, tmp_path, template))


def test_texts_are_seen_where_they_are(tiny: Path, tmp_path: Path) -> None:
    """Where a template looks at how a text begins, texts that stand elsewhere in it too are still found in place."""
    messages = [said("user", "One?"), said("assistant", "s"), said("user", "<|im_start|>"), said("assistant", "user")]
    rendered = rendering.exactly(chat(tiny, tmp_path, LOOKS), Question(messages))
    before = {piece.text: rendered.pieces[index - 1].text for index, piece in enumerate(rendered.pieces)}
    assert [piece.text for piece in rendered.pieces if piece.message >= 0] == ["One?", "s", "<|im_start|>", "user"]
    assert before["s"].endswith("<|im_start|>assistant\n")
    assert before["<|im_start|>"].endswith("<|im_start|>user\n")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("{{ said }}", "{{ said if said != 'art' }}", "unclear_text"),
        ("in messages", "in messages | reverse", "lost_text"),
        ("{{ said }}", "{{ said }}{{ said }}", "lost_text"),
        ("{% endfor %}", "{% endfor %}{{ messages[0].content }}", "repeated_text"),
    ],
)
def test_texts_that_are_not_where_they_should_be(tiny: Path, tmp_path: Path, old: str, new: str, reason: str) -> None:
    """A lost, turned or doubled text is not found in what the template writes or others say."""
    messages = [said("user", "One?"), said("assistant", "start"), said("user", "art"), said("assistant", "two")]
    with pytest.raises(BadRow) as caught:
        rendering.exactly(chat(tiny, tmp_path, LOOKS.replace(old, new)), Question(messages))
    assert caught.value.reason == reason


TWICE = "{% generation %}Says:{% endgeneration %} " + GENERATED


@pytest.mark.parametrize(
    ("loss_on", "expected"), [("last", "Says: B<|im_end|>"), ("assistant", "Says: A<|im_end|>Says: B<|im_end|>")]
)
def test_an_answer_in_two_parts_is_one(
    prepare: Prepare, tiny: Path, tmp_path: Path, loss_on: str, expected: str
) -> None:
    """A template may mark an answer in several parts: the last answer is all of them."""
    folder = model(tiny, tmp_path, TEMPLATE.replace(GENERATED, TWICE))
    row = {"messages": [ASKS, said("assistant", "A"), ASKS, said("assistant", "B")]}
    (document,) = documents(prepare([row], model=folder, loss_on=loss_on, packing=False, **ALONE))
    assert text(folder, document, trained=True) == expected


def test_a_template_that_looks_at_a_part_of_a_text(tiny: Path, tmp_path: Path) -> None:
    """A text that has what a template compares a part of texts with is rendered for itself."""
    looking = chat(tiny, tmp_path, TEMPLATE.replace("{{ said }}", "{{ '!' if said[0] == '{' }}{{ said }}"))
    asked = Question([said("user", "{a"), said("assistant", "b")])
    assert rendering.sought_in(looking, asked) != []
    assert rendering.sought_in(looking, asked._replace(messages=[ASKS, ANSWERS])) == []
