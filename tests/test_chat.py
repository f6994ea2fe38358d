"""Messages become the text that transformers renders, and the tokens that it would train on."""

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import jinja2
import pytest
from conftest import ALONE, Prepare, documents, loaded

from smollm3_ft import chat as chats
from smollm3_ft import rendering
from smollm3_ft.errors import ConfigError
from smollm3_ft.formats import BadRow

ANSWERS = {
    "one turn": [("user", "Hi"), ("assistant", "Hello.")],
    "three turns": [
        ("user", "One?"),
        ("assistant", "1"),
        ("user", "Two?"),
        ("assistant", "2\n2"),
        ("user", "Three?"),
        ("assistant", "3"),
    ],
    "system": [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello.")],
    "white space": [("user", "  Hey\n\n"), ("assistant", "\n Hello you. ")],
    "other scripts": [("user", "你好 – Grüße 👋🏽"), ("assistant", "こんにちは 🙂 e\u0301")],
    "markup": [("user", "<b>{{ 1 }}</b> {% if %}"), ("assistant", "&amp; `code`\n```\nx = {}\n```")],
    "thinking": [("user", "1 + 1?"), ("assistant", "<think>\none and one\n</think>\n2")],
    "thinking in several turns": [
        ("user", "1 + 1?"),
        ("assistant", "<think>\nadd\n</think>\n\n2"),
        ("user", "And 1?"),
        ("assistant", "\n\n<think>\n\nadd\n</think>3\n"),
    ],
    "odd characters at the ends": [
        ("user", "\ufeffHi\u2028"),
        ("assistant", "\u0301e\x00"),
        ("user", "\u00a0\u3000x\u200b"),
        ("assistant", "\r\n\u0085y\x1f"),
    ],
    "texts that repeat": [("user", "assistant\n"), ("assistant", "user"), ("user", "user"), ("assistant", "assistant")],
    "thinking with system": [("system", "Count."), ("user", "1 + 1?"), ("assistant", "<think>\nadd\n</think>\n2")],
}


def messages(name: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in ANSWERS[name]]


class ReleaseDay(datetime.datetime):
    """A clock that has stopped on the day that is pinned."""

    @classmethod
    def now(cls, *_: Any) -> datetime.datetime:
        return chats.TODAY


@pytest.fixture(scope="module", params=["builtin", "SmolLM3"])
def model(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, and a copy whose template does what SmolLM3's does."""
    if request.param == "builtin":
        return tiny
    template = (Path(__file__).parent / "smollm3_like.jinja").read_text()
    return with_template(tiny, tmp_path_factory.mktemp("chat") / "model", template)


@pytest.fixture
def reference(model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tokenizer as transformers loads it, on the day that is pinned."""
    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils

    monkeypatch.setattr(chat_template_utils, "datetime", ReleaseDay)
    return AutoTokenizer.from_pretrained(model)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("name", ANSWERS)
def test_text_equals_transformers(model: Path, reference: Any, name: str, thinking: bool, prompt: bool) -> None:
    """The rendered text is that of apply_chat_template."""
    expected = reference.apply_chat_template(
        messages(name), tokenize=False, enable_thinking=thinking, add_generation_prompt=prompt
    )
    rendered = chats.render(loaded(model), messages(name), thinking, add_generation_prompt=prompt)
    assert chats.without_marks(rendered) == expected


@pytest.mark.parametrize("thinking", ["on", "auto"])
def test_tokens_and_mask_equal_transformers(model: Path, reference: Any, prepare: Prepare, thinking: str) -> None:
    """Prepared rows have the tokens of apply_chat_template and train on those of its assistant mask."""
    rows = [{"messages": messages(name)} for name in ANSWERS]
    prepared = prepare(rows, model=model, thinking=thinking, packing=False, **ALONE)
    for name, document in zip(ANSWERS, documents(prepared), strict=True):
        expected = reference.apply_chat_template(
            messages(name),
            return_dict=True,
            return_assistant_tokens_mask=True,
            enable_thinking=thinking == "on" or name.startswith("thinking"),
        )
        assert document.ids == expected["input_ids"], name
        assert document.mask == expected["assistant_masks"], name


def with_template(tiny: Path, folder: Path, template: str) -> Path:
    """A copy of builtin:tiny with another chat template."""
    shutil.copytree(tiny, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def read(template: str, tiny: Path, folder: Path) -> str:
    """The text of a row of one turn under another template."""
    chat = chats.load(with_template(tiny, folder / "model", template))
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    return rendering.exactly(chat, rendering.Question(turns)).text


TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def test_the_date_is_pinned(tiny: Path, tmp_path: Path) -> None:
    """A template that prints today's date prints the same on every day."""
    text = read("{{ strftime_now('%d %B %Y') }}\n" + TEMPLATE, tiny, tmp_path)
    assert text == "08 July 2025\nuser: Hi\nassistant: Hello\n"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('one turn only') }}", "template"),
        ("{{ nothing.here }}" + TEMPLATE, "template"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}" + TEMPLATE, "template"),
        ("{{ messages[0].content }}", "lost_text"),
    ],
)
def test_a_row_that_the_template_cannot_show(tiny: Path, tmp_path: Path, template: str, reason: str) -> None:
    """A template that refuses a row, reaches for what it must not, or leaves text out makes the row a bad one."""
    with pytest.raises(BadRow) as caught:
        read(template, tiny, tmp_path)
    assert caught.value.reason == reason


def test_a_template_that_is_none(tiny: Path, tmp_path: Path) -> None:
    """A template that cannot be parsed is the model's fault, not a row's."""
    with pytest.raises((ConfigError, jinja2.TemplateSyntaxError)):
        read("{% for %}", tiny, tmp_path)


def test_a_template_in_the_tokenizer_settings(tiny: Path, tmp_path: Path) -> None:
    """Older models keep the template in tokenizer_config.json, alone or by name."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    templates = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "<{{ messages[0].content }}>"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    assert chats.render(chats.load(folder), messages("one turn")) == "<Hi>"


@pytest.mark.parametrize(
    ("name", "said"), [("chat_template.jinja", "no chat template"), ("tokenizer.json", "no tokenizer.json")]
)
def test_a_model_that_cannot_chat(tiny: Path, tmp_path: Path, name: str, said: str) -> None:
    """A model without a template or a fast tokenizer is refused by its key."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"model.name: .* has {said}"):
        chats.load(folder)


def test_the_digest_is_of_tokenizer_and_template(tiny: Path, tmp_path: Path) -> None:
    """Two copies of a model have one digest; another template gives another."""
    same = chats.load(shutil.copytree(tiny, tmp_path / "same"))
    assert same.digest == chats.load(tiny).digest
    assert chats.load(with_template(tiny, tmp_path / "other", TEMPLATE)).digest != same.digest
