"""Messages as a chat template writes them: whose text is whose, what is the assistant's, and nothing lost unseen."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from smollm3_ft import chat as chats
from smollm3_ft import rendering
from smollm3_ft.chat import Chat
from smollm3_ft.formats import BadRow
from smollm3_ft.rendering import Question

HERE = Path(__file__).parent
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "2."},
]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": 'Bo"nn', "days": [1, 2.5, True]}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALLING = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"rain": 3}'},
    {"role": "assistant", "content": "Yes."},
]


def with_template(tiny: Path, folder: Path, template: str) -> Chat:
    """The chat of a copy of builtin:tiny with another template."""
    shutil.copytree(tiny, folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(template)
    return chats.load(folder / "model")


@pytest.fixture
def smollm3(tiny: Path, tmp_path: Path) -> Chat:
    """The chat of a model whose template does what SmolLM3's does."""
    return with_template(tiny, tmp_path, (HERE / "smollm3_like.jinja").read_text())


def said(rendered: rendering.Rendered) -> list[str]:
    """The text of each answer, as it is trained on."""
    answers: dict[int, str] = {}
    for piece in rendered.pieces:
        if piece.answer >= 0:
            answers[piece.answer] = answers.get(piece.answer, "") + piece.text
    return list(answers.values())


def test_every_text_has_its_piece(tiny: Path) -> None:
    """The pieces are the rendered text, and each message's own text is one of them."""
    chat = chats.load(tiny)
    rendered = rendering.exactly(chat, Question(TALK))
    assert rendered.text == chats.without_marks(chats.render(chat, TALK))
    assert [p.text for p in rendered.pieces if p.message >= 0] == [m["content"] for m in TALK]


def test_answers_are_what_the_assistant_says(tiny: Path) -> None:
    """Each answer is its text with the token that ends the turn."""
    assert said(rendering.exactly(chats.load(tiny), Question(TALK))) == ["1.<|im_end|>", "2.<|im_end|>"]


def test_the_last_answer_begins_where_a_model_is_asked(smollm3: Chat) -> None:
    """What stands before the last answer is what the template writes to have it given."""
    rendered = rendering.exactly(smollm3, Question(TALK))
    before = "".join(piece.text for piece in rendered.pieces[: rendered.asked_until])
    asked = chats.render(smollm3, TALK[:-1], add_generation_prompt=True)
    assert before == chats.without_marks(asked)
    assert said(rendered)[-1] == "<|im_start|>assistant\n<think>\n\n</think>\n2.<|im_end|>\n"


@pytest.mark.parametrize("thinking", [True, False])
def test_a_filled_shape_is_the_rendered_conversation(tiny: Path, smollm3: Chat, thinking: bool) -> None:
    """Texts put into the shape of others give what the template gives for them."""
    for chat in (chats.load(tiny), smollm3):
        asked = Question(TALK, thinking)
        shape = rendering.layout(chat, asked._replace(messages=[{**m, "content": "x"} for m in TALK]))
        assert shape is not None
        assert rendering.fill(shape, TALK) == rendering.exactly(chat, asked)


@pytest.mark.parametrize(
    ("text", "plain"),
    [("Hi", True), ("Hi\nyou", True), ("  Hi", False), ("Hi\n", False), ("", False), ("see /think", False)],
)
def test_texts_that_a_template_may_treat_apart_are_rendered_for_themselves(
    smollm3: Chat, text: str, plain: bool
) -> None:
    """White space at an end, nothing at all, and what the template looks for make a conversation no plain one."""
    asked = Question([{"role": "user", "content": text}, {"role": "assistant", "content": "x"}])
    assert (rendering.sought_in(smollm3, asked) == []) is plain


@pytest.mark.parametrize(("index", "harmless"), [(0, False), (1, True), (2, True), (4, True)])
def test_what_a_template_looks_for_may_be_harmless(smollm3: Chat, index: int, harmless: bool) -> None:
    """A switch counts in the system message alone: elsewhere, as in "</think>", a text is as any other."""
    assert rendering.is_harmless(smollm3, Question(TALK), index, "/think") is harmless


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}",
        "{% for m in messages %}{{ m.content | length }} {{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{{ m.content.split('\n')[0] }}\n{% endfor %}",
        "{% for m in messages %}{% if m.content | length < 9 %}short {% endif %}{{ m.content }}\n{% endfor %}",
    ],
)
def test_no_shape_where_texts_change_what_is_around_them(tiny: Path, tmp_path: Path, template: str) -> None:
    """A template that looks into its texts has no shape to fill."""
    assert rendering.layout(with_template(tiny, tmp_path, template), Question(TALK)) is None


def test_white_space_at_the_ends_may_go(smollm3: Chat) -> None:
    """A template may strip a text's ends: nothing of what it says is lost."""
    talk = [{"role": "user", "content": " Hi\n"}, {"role": "assistant", "content": "\n\n Hello "}]
    rendered = rendering.exactly(smollm3, Question(talk, True))
    assert said(rendered) == ["<|im_start|>assistant\n Hello <|im_end|>\n"]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('one turn only') }}", "template"),
        ("{{ nothing.here }}", "template"),
        ("{{ messages[0].content }}", "lost_text"),
        ("{% for m in messages %}{{ m.content[:3] }}{% endfor %}", "lost_text"),
        ("{% for m in messages %}{{ m.content.replace('n', '') }}{% endfor %}", "lost_text"),
        ("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", "lost_text"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "lost_text"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[0].content }}", "repeated_text"),
    ],
)
def test_a_row_that_the_template_does_not_show(tiny: Path, tmp_path: Path, template: str, reason: str) -> None:
    """A template that refuses a row, cuts, drops, turns or repeats what it says makes it a bad one."""
    with pytest.raises(BadRow) as caught:
        rendering.exactly(with_template(tiny, tmp_path, template), Question(TALK))
    assert caught.value.reason == reason


def test_a_switch_inside_a_word_is_lost_text(smollm3: Chat) -> None:
    """SmolLM3's template takes "/think" out of a web address: such a row is not trained as something else."""
    talk = [{"role": "system", "content": "See http://a.org/think/b."}, *TALK[1:]]
    with pytest.raises(BadRow, match="lost_text"):
        rendering.exactly(smollm3, Question(talk))


def test_a_template_that_looks_at_how_a_text_begins(tiny: Path, tmp_path: Path) -> None:
    """Where the marks would change what the template does, texts are looked for in what it does without them."""
    template = (
        "{% for m in messages %}{{ m.role }}: {{ '!' if m.content.startswith('One') }}{{ m.content }}\n{% endfor %}"
    )
    rendered = rendering.exactly(with_template(tiny, tmp_path, template), Question(TALK))
    assert rendered.text == "system: Be kind.\nuser: !One?\nassistant: 1.\nuser: Two?\nassistant: 2.\n"


PREFIXES = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def test_answers_without_generation_marks(tiny: Path, tmp_path: Path) -> None:
    """A template without marks gives the same answers, found by rendering prefixes."""
    rendered = rendering.exactly(with_template(tiny, tmp_path, PREFIXES + PROMPT), Question(TALK))
    assert said(rendered) == ["1.<|im_end|>", "2.<|im_end|>"]
    assert rendered == rendering.exactly(chats.load(tiny), Question(TALK))


def test_answers_that_cannot_be_told_apart(tiny: Path, tmp_path: Path) -> None:
    """A template that writes earlier turns otherwise once more follow is an error, not a guess."""
    template = PREFIXES.replace("{{ m.content }}", "{{ '' if loop.last else '>' }}{{ m.content }}") + PROMPT
    with pytest.raises(BadRow, match="unclear_mask"):
        rendering.exactly(with_template(tiny, tmp_path, template), Question(TALK))


CALLS = (
    "{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}{{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}\n{% endfor %}"
)


def test_a_template_that_writes_tool_calls(tiny: Path, tmp_path: Path) -> None:
    """Tools and calls are proved to be there, names and values."""
    rendered = rendering.exactly(with_template(tiny, tmp_path, CALLS), Question(CALLING, tools=[TOOL]))
    assert 'weather({"city": "Bo\\"nn", "days": [1, 2.5, true]})' in rendered.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{{ c.function.arguments | tojson }}", ""),
        ("{{ c.function.name }}", ""),
        ("{{ t | tojson }}", ""),
        ("{{ c.function.arguments | tojson }}", "{{ c.function.arguments.city }}"),
    ],
)
def test_a_lost_tool_call_is_found(tiny: Path, tmp_path: Path, old: str, new: str) -> None:
    """A template that leaves out a tool, a call, its name or an argument does not pass."""
    chat = with_template(tiny, tmp_path, CALLS.replace(old, new))
    calls: list[Any] = [{**message, "content": message["content"].replace("weather", "")} for message in CALLING]
    with pytest.raises(BadRow, match="lost_tool_call"):
        rendering.exactly(chat, Question(calls, tools=[TOOL] if "t |" in old else ()))
