"""What the training benchmark trains on: conversations whose lengths are log-normal, and a small SmolLM3."""

import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import generated
import numpy as np
from numpy.typing import NDArray

from smollm3_ft.builtin import tiny

SEED = 20260201
MEDIAN_WORDS, SIGMA = 72, 0.95  # of a conversation
VOCABULARY = 8_192
PAD = "<|end_of_text|>"  # in no text, so that padding can be told from tokens
SIZES: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": tiny.SPECIAL.index(PAD),
}


def write_rows(path: Path, count: int, median: int = MEDIAN_WORDS) -> None:
    """A JSON-lines file of conversations, the same bytes each time."""
    random, made = np.random.RandomState(SEED), generated.forms()
    with path.open("w", encoding="utf-8") as file:
        for words in _words(count, median, random):
            messages = _conversation(words, random, made)
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def _words(count: int, median: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Words a conversation: the quantiles of their law, shuffled, so that few rows have its mean and its tail too."""
    law = NormalDist(float(np.log(median)), SIGMA)
    quantiles = [law.inv_cdf((at + 0.5) / count) for at in range(count)]
    words: NDArray[np.int64] = np.exp(random.permutation(quantiles)).astype(np.int64)
    return words


def _conversation(words: int, random: np.random.RandomState, made: generated.Forms) -> list[dict[str, str]]:
    """One to four exchanges; an answer has twice the words of a question, on the average."""
    exchanges = random.randint(1, 5)
    shares = random.dirichlet([2, 4] * exchanges)
    texts = generated.texts(np.maximum(1, (words * shares).astype(np.int64)), random, made)
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def write_model(folder: Path) -> None:
    """The model with weights from a fixed seed."""
    import torch
    import transformers

    generated.write_model(folder, VOCABULARY, SIZES)
    transformers.logging.disable_progress_bar()
    write_tokenizer_config(folder)
    torch.manual_seed(SEED)
    transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder)).save_pretrained(
        folder
    )


def write_tokenizer_config(folder: Path) -> None:
    """With padding that can be told from tokens."""
    words = {**tiny.tokenizer_config(), "pad_token": PAD, "model_max_length": 131072}
    tiny.write_json(folder / "tokenizer_config.json", words)


def lengths(model: Path, path: Path) -> list[int]:
    """Tokens of each row, with nothing cut off."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [len(ids) for ids in tokenizer.apply_chat_template(rows, return_dict=False)]
