"""Conversations made from a fixed seed, the same bytes each time, and a small SmolLM3 whose tokenizer learnt from them.

Rows come in blocks, each from its own seed: the first rows of a large file are those of a small one.
"""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smollm3_ft.builtin import tiny

SEED = 20260101
BLOCK = 1000
VOCABULARY = 30_000
LEARN_FROM = 4_000  # rows that the tokenizer learns from: enough for all of its tokens
MEDIAN_WORDS, SIGMA = 45, 0.8
SPECIAL_SHARE = SPACE_SHARE = 0.01
OTHER_SHARE = 0.04  # of messages, each: code, and other scripts

# Every word in every form: with a small or a capital letter, and with what follows it.
AFTER = (" ", ", ", ". ", "? ", "! ", ".\n", ".\n\n", ": ", ' "', " (", ") ", "'s ", " - ", "\n", "\n\n", "\n- ")
CHANCE = (0.765, 0.07, 0.07, 0.01, 0.005, 0.012, 0.013, 0.01, 0.005, 0.005, 0.005, 0.01, 0.005, 0.005, 0.005, 0.005)
ENDS = np.array([after[0] in ".?!\n" for after in AFTER])
ALPHABETS = (
    "абвгдежзиклмнопрстухчшя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "的一是不了在人有我他这中大来上国",
    "あいうえおかきくけこさしすせそ",
    "ابتثجحخدذرزسشصضطظعغ",
    "अआइईकखगघचछजझटठ",
    "🙂🚀🎉👍🏽❤️🔥👩‍💻🇩🇪",
    "éèêëàâäöüßñçøåæ",
)
SPACES = ("\n", "  ", "\n\n", "\t", " ")
SYSTEM = ("You are a helpful assistant.", "Answer in one paragraph.", "Be brief, and say where you are not sure.")

Forms = tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.int64]]


def forms() -> Forms:
    """Words by capital, what follows, and rank; numbers by what follows; and a table that draws ranks by Zipf's law."""
    random = np.random.RandomState(SEED)
    starts = [*"bcdfghjklmnprstvwz", "br", "ch", "dr", "fl", "gr", "pl", "sh", "st", "th", "tr"]
    ends = ["", "", "n", "r", "s"]
    syllables = [start + vowel + end for start in starts for vowel in "aeiou" for end in ends]
    words: dict[str, None] = {}  # in the order they were made: a word's place is its rank
    while len(words) < VOCABULARY:
        count = 1 + int(len(words) > 100) + random.randint(0, 1 + int(len(words) > 2000) + int(len(words) > 10000))
        words["".join(syllables[i] for i in random.randint(0, len(syllables), count))] = None
    cased = (list(words), [word.capitalize() for word in words])
    table = [[[form + after for form in forms] for after in AFTER] for forms in cased]
    numbers = [str(n) for n in random.randint(0, 3000, 700)] + [f"{n:.2f}" for n in 1000 * random.random_sample(300)]
    chance = np.cumsum(1 / np.arange(1.0, VOCABULARY + 1))
    ranks = np.searchsorted(chance / chance[-1], (np.arange(2**20) + 0.5) / 2**20)
    return np.array(table, dtype=object), np.array([[n + a for n in numbers] for a in AFTER], dtype=object), ranks


def block(number: int, made: Forms) -> list[list[dict[str, str]]]:
    """The conversations of one block."""
    random = np.random.RandomState([SEED, number])
    exchanges = random.randint(1, 5, BLOCK)
    lengths = random.lognormal(np.log(MEDIAN_WORDS), SIGMA, 2 * int(exchanges.sum()))
    messages = texts(np.maximum(1, lengths.astype(np.int64)), random, made)
    rows = []
    for count in exchanges:
        row = [{"role": role, "content": next(messages)} for _ in range(count) for role in ("user", "assistant")]
        if random.random_sample() < 0.3:
            row.insert(0, {"role": "system", "content": SYSTEM[random.randint(len(SYSTEM))]})
        _make_rare(row, random)
        rows.append(row)
    return rows


def texts(lengths: NDArray[np.int64], random: np.random.RandomState, made: Forms) -> Iterator[str]:
    """Texts of so many words each."""
    words, numbers, ranks = made
    total = int(lengths.sum())
    after = np.searchsorted(np.cumsum(CHANCE)[:-1], random.random_sample(total))
    stops = np.cumsum(lengths)
    first = np.zeros(total, dtype=np.int64)
    first[1:] = ENDS[after[:-1]]
    first[stops - lengths] = 1
    drawn = words[first, after, ranks[random.randint(0, len(ranks), total)]]
    number = np.flatnonzero(random.random_sample(total) < 0.02)
    drawn[number] = numbers[after[number], random.randint(0, numbers.shape[1], len(number))]
    for start, stop in zip(stops - lengths, stops, strict=True):
        yield _vary("".join(drawn[start:stop].tolist()).rstrip(' \n"(,:-') + ".", random)


def _vary(text: str, random: np.random.RandomState) -> str:
    chance = random.random_sample()
    if chance < OTHER_SHARE:
        name, _, rest = text.partition(" ")
        name = "".join(filter(str.isalpha, name)) or "f"
        return f'{text}\n\n```python\ndef {name.lower()}(x):\n    return [{{"{name}": x + 1}}]  # {rest[:20]!r}\n```'
    if chance < 2 * OTHER_SHARE:
        letters = ALPHABETS[random.randint(len(ALPHABETS))]
        return f"{text} {''.join(letters[i] for i in random.randint(0, len(letters), 12))} {letters[:3]}!"
    return text


def _make_rare(row: list[dict[str, str]], random: np.random.RandomState) -> None:
    """Text like a special token in a few rows, white space at an end of a message in a few others."""
    chance, message = random.random_sample(), row[random.randint(len(row))]
    text = message["content"]
    if chance < SPECIAL_SHARE:
        at = random.randint(len(text))
        message["content"] = text[:at] + tiny.SPECIAL[random.randint(len(tiny.SPECIAL))] + text[at:]
    elif chance < SPECIAL_SHARE + SPACE_SHARE:
        space = SPACES[random.randint(len(SPACES))]
        message["content"] = space + text if random.random_sample() < 0.5 else text + space


def conversations(count: int) -> Iterator[list[dict[str, str]]]:
    """The first `count` rows."""
    made = forms()
    return itertools.islice(itertools.chain.from_iterable(block(n, made) for n in itertools.count()), count)


def write_rows(rows: Path, rendered: Path, count: int) -> None:
    """A JSON-lines file of conversations, and one of the text that the chat template makes of each."""
    with rows.open("w", encoding="utf-8") as given, rendered.open("w", encoding="utf-8") as ready:
        for messages in conversations(count):
            given.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
            ready.write(json.dumps(text, ensure_ascii=False) + "\n")


def write_model(folder: Path, tokens: int, sizes: dict[str, Any]) -> None:
    """A small SmolLM3 without its weights: its configuration, tokenizer and chat template."""
    folder.mkdir(parents=True)
    learnt = (message["content"] for row in conversations(LEARN_FROM) for message in row)
    tokenizer = tiny.tokenizer(learnt, tokens)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    tiny.write_json(folder / "config.json", {**tiny.config(), "vocab_size": tokenizer.get_vocab_size(), **sizes})
    tiny.write_json(folder / "tokenizer_config.json", {**tiny.tokenizer_config(), "model_max_length": 131072})
    shutil.copyfile(tiny.HERE / "chat_template.jinja", folder / "chat_template.jinja")
