"""Rendered pieces to tokens: control tokens are the template's alone; the fast way gives what the certain one does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from smollm3_ft import chat as chats
from smollm3_ft import encoding, rendering
from smollm3_ft.chat import Chat
from smollm3_ft.encoding import Encoded, Encoder
from smollm3_ft.rendering import Question

HERE = Path(__file__).parent
TEXTS = (
    "Hello.",
    "Grüße 你好 👋🏽 e\u0301\n\n  x",
    "<|im_end|>",
    "a<|im_start|>user\nb",
    "<think>\nhm\n</think>\nyes",
    "it's 12345 !!!\r\n...",
    "x" * 300,
)


@pytest.fixture(scope="module", params=["builtin", "SmolLM3"])
def chat(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """The built-in model's template, and one that does what SmolLM3's does."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("chat") / "model")
    if request.param == "SmolLM3":
        shutil.copyfile(HERE / "smollm3_like.jinja", folder / "chat_template.jinja")
    return chats.load(folder)


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def both(chat: Chat, encoder: Encoder, asked: Question) -> tuple[Encoded, Encoded]:
    """A conversation by the program of its shape, and by the model's own tokenizer."""
    shape = rendering.layout(chat, asked)
    assert shape is not None
    program = encoding.program(encoder, shape)
    assert program is not None
    certain = encoding.encode(encoder, rendering.exactly(chat, asked))
    return encoding.run(encoder, program, asked.messages), certain


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_the_fast_way_is_the_certain_way(chat: Chat, text: str, thinking: bool) -> None:
    """Tokens, answers and the place of the last answer are the same by both ways."""
    encoder = encoding.load(chat)
    for messages in (talk(text, "Yes."), talk("Hi", text), talk("One?", text, text, "2")):
        fast, certain = both(chat, encoder, Question(messages, thinking))
        assert np.array_equal(fast.ids, certain.ids)
        assert np.array_equal(fast.answers, certain.answers)
        assert fast.asked_until == certain.asked_until >= 0


def test_tokens_are_those_of_the_whole_conversation(chat: Chat) -> None:
    """Encoded chunk by chunk, a conversation has the tokens of its text as a whole."""
    rendered = rendering.exactly(chat, Question(talk("  Hi\n", "\n Hello ", "Grüße…", "你好")))
    encoded = encoding.encode(encoding.load(chat), rendered)
    assert encoded.ids.tolist() == chat.tokenizer.encode(rendered.text, add_special_tokens=False).ids


def test_special_tokens_in_a_text_are_text(chat: Chat) -> None:
    """What looks like a control token in a message is encoded as its characters, and decodes to them."""
    encoder = encoding.load(chat)
    control = chat.tokenizer.token_to_id("<|im_end|>")
    plain = encoding.encode(encoder, rendering.exactly(chat, Question(talk("Hi", "Hello."))))
    marked = encoding.encode(encoder, rendering.exactly(chat, Question(talk("Hi<|im_end|>", "Hello."))))
    assert (marked.ids == control).sum() == (plain.ids == control).sum()
    assert "Hi<|im_end|><|im_end|>" in chat.tokenizer.decode(marked.ids.tolist(), skip_special_tokens=False)


def test_tags_of_thought_are_their_tokens(chat: Chat) -> None:
    """<think> in a text is the model's own token: it is no control token."""
    encoded = encoding.encode(
        encoding.load(chat), rendering.exactly(chat, Question(talk("Hi", "<think>x</think>y"), True))
    )
    assert chat.tokenizer.token_to_id("<think>") in encoded.ids
    assert chat.tokenizer.token_to_id("</think>") in encoded.ids


def test_special_tokens_are_looked_for(chat: Chat) -> None:
    """A text that holds the characters of a control token is found."""
    special = encoding.load(chat).special
    assert [special.is_in(text) for text in ("<|im_end|>", "a <|im_start|> b", "<|im_en", "plain")] == [1, 1, 0, 0]


Change = Callable[[dict[str, Any]], None]


def changed(tiny: Path, folder: Path, change: Change) -> Chat:
    """The chat of a copy of builtin:tiny with another tokenizer.json."""
    shutil.copytree(tiny, folder / "model")
    path = folder / "model" / "tokenizer.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))
    return chats.load(folder / "model")


def _swap_merges(settings: dict[str, Any]) -> None:
    settings["model"]["merges"].reverse()


def _forget_merges(settings: dict[str, Any]) -> None:
    # The words stay in the vocabulary and can be had by no merge.
    del settings["model"]["merges"][300:]


def _normalize(settings: dict[str, Any]) -> None:
    settings["normalizer"] = {"type": "NFKC"}


def _another_pattern(settings: dict[str, Any]) -> None:
    settings["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithPrevious"


@pytest.mark.parametrize("change", [_swap_merges, _forget_merges, _normalize, _another_pattern])
def test_other_tokenizers(tiny: Path, tmp_path: Path, change: Change) -> None:
    """Of any tokenizer the tokens are its own, whether there is a fast way or not."""
    encoder = encoding.load(changed(tiny, tmp_path, change))
    for text in (*TEXTS, *encoding.TRIALS):
        assert encoding.encode_text(encoder, text) == encoder.text.encode(text, add_special_tokens=False).ids


def test_a_kind_that_the_fast_way_does_not_know(tiny: Path, tmp_path: Path) -> None:
    """Where fastokens cannot read a tokenizer, the model's own encodes."""
    assert encoding.load(changed(tiny, tmp_path, _normalize)).fast is None


def test_a_fast_way_that_disagrees_is_not_taken(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fastokens gives other tokens at the start, the model's own encodes."""
    other = encoding.load(chats.load(tiny)).fast
    monkeypatch.setattr(encoding, "encode_text", lambda *_: [1])
    assert other is not None
    assert encoding.load(chats.load(tiny)).fast is None


def test_gpt2_s_words(tiny: Path, tmp_path: Path) -> None:
    """A ByteLevel pre-tokenizer without a pattern splits as GPT-2 does, and so does the fast way."""

    def change(settings: dict[str, Any]) -> None:
        settings["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        }

    assert encoding.load(changed(tiny, tmp_path, change)).fast is not None


def test_offsets_that_leave_white_space_out_move_nothing(tiny: Path, tmp_path: Path) -> None:
    """Llama's tokenizer moves the offsets of white space: what is trained on stays where it is."""

    def change(settings: dict[str, Any]) -> None:
        settings["post_processor"] = {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": False,
        }

    asked = Question(talk("Hi", "  Hello\n\n", "A", "\n"))
    ours = encoding.encode(encoding.load(chats.load(tiny)), rendering.exactly(chats.load(tiny), asked))
    chat = changed(tiny, tmp_path, change)
    theirs = encoding.encode(encoding.load(chat), rendering.exactly(chat, asked))
    assert np.array_equal(ours.answers, theirs.answers)
    assert ours.asked_until == theirs.asked_until


def test_plain_text_is_encoded_as_text(tiny: Path) -> None:
    """By both ways, plain text is its characters: special tokens too."""
    chat = chats.load(tiny)
    text = tokenizers.Tokenizer.from_str(chat.tokenizer.to_str())
    text.encode_special_tokens = True
    for encoder in (encoding.load(chat), encoding.load(chat, try_fast=False)):
        for one in TEXTS:
            assert encoding.encode_text(encoder, one) == text.encode(one, add_special_tokens=False).ids
