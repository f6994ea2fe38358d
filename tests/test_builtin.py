"""The shipped data set and the tiny model."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from smollm3_ft.builtin import demo, tiny

PRINT_DIGESTS = """
import hashlib, sys
from pathlib import Path
from smollm3_ft.builtin import tiny
folder = Path(sys.argv[1])
tiny.build(folder)
assert not {"torch", "transformers"} & set(sys.modules), "build imported torch or transformers"
for file in sorted(folder.iterdir()):
    print(file.name, hashlib.sha256(file.read_bytes()).hexdigest())
"""

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of Peru?"},
    {"role": "assistant", "content": "Lima"},
    {"role": "user", "content": "And of Japan?"},
    {"role": "assistant", "content": "Tokyo"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    tiny.build(made)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    return AutoTokenizer.from_pretrained(folder)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def question_and_answer(row: dict) -> list[tuple[str, str]]:
    if "prompt" in row:
        return [(row["prompt"], row["completion"])]
    if "instruction" in row:
        return [(f"{row['instruction']}\n\n{row['input']}".strip(), row["output"])]
    said = [message["content"] for message in row["messages"] if message["role"] != "system"]
    return list(zip(said[::2], said[1::2], strict=True))


def asked(start: str) -> list[tuple[str, str]]:
    return [
        pair
        for file in sorted(demo.FOLDER.glob(f"{start}*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
        for pair in question_and_answer(json.loads(line))
    ]


def test_committed_demo_files_equal_what_generate_writes(tmp_path: Path):
    """Running the generator again changes nothing."""
    demo.generate(tmp_path)
    assert digests(tmp_path) == digests(demo.FOLDER)


def test_no_question_is_asked_twice():
    """No question stands in two rows, so no held-out question is in training and no row is a duplicate."""
    questions = [question for start in ("train", "validation", "test") for question, _ in asked(start)]
    assert len(set(questions)) == len(questions)


def test_every_fact_is_trained_and_tested():
    """Each of the 144 facts is asked at least ten times in training and at least once in the test."""

    def times(pairs: list[tuple[str, str]], country: str, answer: str) -> int:
        return sum(country in question and found == answer for question, found in pairs)

    trained, tested = asked("train"), asked("test")
    for country, *answers in demo.FACTS:
        for answer in answers:
            assert times(trained, country, answer) >= 10
            assert times(tested, country, answer) >= 1


def test_build_is_the_same_in_another_process(folder: Path, tmp_path: Path):
    """Builds in two processes are equal byte for byte; building imports neither torch nor transformers."""
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", PRINT_DIGESTS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert dict(line.split() for line in done.stdout.splitlines()) == digests(folder)


def test_weights_fit_the_model(folder: Path):
    """The weights have exactly the names and shapes that SmolLM3 expects, about a million numbers in all."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "SmolLM3ForCausalLM"
    assert not any(info.values()), info
    assert 800_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 1_500_000


def test_configs_agree_on_the_tokens(folder: Path, tokenizer):
    """The model, the generation defaults and the tokenizer name the same begin, end and padding tokens."""
    config = json.loads((folder / "config.json").read_text())
    generation = GenerationConfig.from_pretrained(folder)
    assert len(tokenizer) == config["vocab_size"]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert config[name] == getattr(tokenizer, name) == getattr(generation, name)


def test_every_byte_round_trips(tokenizer):
    """Any text comes back unchanged, whatever its bytes."""
    text = "".join(map(chr, range(256))) + "źółw 東京 🙂\r\n\t  <think> 1234567 </think>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    # Bytes that begin characters of every length in UTF-8, up to the last code point.
    wide = "".join(chr(point) for point in range(0x100, 0x110000, 0x3F1) if not 0xD800 <= point < 0xE000)
    assert tokenizer.decode(tokenizer.encode(wide)) == wide


def test_thinking_tags_are_single_tokens_that_decoding_keeps(tokenizer):
    """``<think>`` is one token and, unlike the end of a turn, survives skip_special_tokens."""
    ids = tokenizer.encode("<think></think><|im_end|>")
    assert len(ids) == 3
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think></think>"


def test_assistant_mask_covers_answer_and_end_of_turn(tokenizer):
    """Exactly the answers and their end-of-turn tokens are marked for the loss."""
    made = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    kept = [token for token, mark in zip(made["input_ids"], made["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(kept) == "Lima<|im_end|>Tokyo<|im_end|>"


@pytest.mark.parametrize("enable_thinking", [False, True])
def test_generation_prompt_begins_what_is_trained(tokenizer, enable_thinking: bool):
    """The prompt's tokens are a prefix of the trained conversation's tokens."""

    def ids(messages: list[dict], prompt: bool) -> list[int]:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=prompt, enable_thinking=enable_thinking, return_dict=True
        )["input_ids"]

    before, whole = ids(CHAT[:-1], True), ids(CHAT, False)
    assert whole[: len(before)] == before


def test_template_text(tokenizer):
    """A system turn appears only when it is given or thinking is asked for, and later ones stay in place."""

    def text(messages: list[dict], **options: bool) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    user, system = {"role": "user", "content": " Hi\n"}, {"role": "system", "content": "S"}
    assert text([user]) == "<|im_start|>user\n Hi\n<|im_end|>\n"
    assert text([user], enable_thinking=True) == "<|im_start|>system\n/think<|im_end|>\n" + text([user])
    assert text([system, user, system], enable_thinking=True) == (
        "<|im_start|>system\nS\n/think<|im_end|>\n" + text([user]) + text([system])
    )


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "Hi"}]}, "not a string"),
        ({"role": "user"}, "not a string"),
        ({"role": "assistant", "content": "", "tool_calls": [{}]}, "tool calls"),
        ({"role": "tool", "content": "42"}, "tool calls"),
        ({"role": "human", "content": "Hi"}, "role human"),
    ],
)
def test_template_refuses_what_it_cannot_render(tokenizer, message: dict, error: str):
    """Content that is no string, tool calls and unknown roles raise instead of rendering wrongly."""
    with pytest.raises(Exception, match=error):
        tokenizer.apply_chat_template([message], tokenize=False)
