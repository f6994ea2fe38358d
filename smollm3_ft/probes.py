"""What a model is asked beside the held-out rows: general rows, which show what was forgotten, and own prompts.

Both become tokens as training rows do, once for a run, and lie beside its data: whoever evaluates needs no file of the
user's, and a run that goes on asks what it asked before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smollm3_ft import chat, conversations, documents, files, reading
from smollm3_ft.config import Config
from smollm3_ft.documents import Document, Work
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.formats import BadRow, Row
from smollm3_ft.reading import Line

FILE = "probes.json"  # in a run's data folder
GENERAL = "builtin:general"
BUILTIN = Path(__file__).parent / "builtin" / "general.jsonl"
LONGEST = 2048  # tokens; what is trained on may be cut at fewer
HELD_PLACE = "."  # an answer where a prompt has none: it is rendered, and taken off again


def write(config: Config, model: Path, path: Path) -> None:
    """Write what a run asks, once. Raises ConfigError for a file that cannot be read or a row that cannot be asked."""
    if not path.is_file():
        files.write_json(path, made(config, model))


def made(config: Config, model: Path) -> dict[str, Any]:
    """The rows of both, with the columns of `shards.py`; a prompt without a reference has no tokens behind it.

    Raises ConfigError as `write` does.
    """
    evaluate = config.evaluate
    if evaluate.general is None and evaluate.prompts is None:
        return {"general": [], "prompts": []}
    longest = max(LONGEST, config.data.max_length)
    data = config.data.model_copy(update={"over_length": "drop", "loss_on": "assistant", "max_length": longest})
    work = documents.begin(data, "sft", chat.load(model), fast=False)
    return {
        "general": list(_general(work, evaluate.general)) if evaluate.general else [],
        "prompts": list(_prompts(work, evaluate.prompts)) if evaluate.prompts else [],
    }


def fingerprint(path: Path) -> str:
    """Of what is asked; what an evaluation depends on."""
    return files.sha256(path)


def _general(work: Work, place: str) -> Iterator[dict[str, Any]]:
    """Every row of a file. None may be left out: two models are compared on all of them."""
    path = BUILTIN if place == GENERAL else Path(place)
    for line in _lines("evaluate.general", path):
        for document in _documents("evaluate.general", work, line, line.row):
            yield _row(document, document.ids.tolist())


def _prompts(work: Work, given: str | Sequence[str]) -> Iterator[dict[str, Any]]:
    """A file of prompts or of rows, or a list of prompts."""
    key = "evaluate.prompts"
    if isinstance(given, str):
        lines: Sequence[Line] = _lines(key, Path(given))
    else:
        lines = [Line(key, number, {"text": text}) for number, text in enumerate(given, start=1)]
    for line in lines:
        row, has_reference = _asked(line.row)
        (document,) = _documents(key, work, line, row)
        if document.answer < 0:
            what = f"{line.place}:{line.number} leaves nothing to be answered"
            raise ConfigError(Problem(key, what, "mend the row, or leave it out"))
        yield _row(document, document.ids[: None if has_reference else document.answer].tolist())


def _lines(key: str, path: Path) -> list[Line]:
    if not path.is_file() or not reading.ending(path):
        endings = ", ".join(reading.TEXTS)
        raise ConfigError(Problem(key, f"{path} is no file that can be read", f"give a file ({endings}, .parquet)"))
    found = [line for block in reading.blocks(path) for line in reading.lines(block)]
    if not found:
        raise ConfigError(Problem(key, f"{path} has no rows", "leave it out, or give some"))
    return found


def _asked(row: Row | BadRow) -> tuple[Row | BadRow, bool]:
    """A prompt as a row that has an answer, and whether that is the user's own."""
    if isinstance(row, BadRow):
        return row, False
    if set(row) == {"text"}:
        return {"prompt": row["text"], "completion": HELD_PLACE}, False
    turns = row.get("messages")
    if isinstance(turns, list) and turns and isinstance(turns[-1], Mapping) and turns[-1].get("role") != "assistant":
        return {**row, "messages": [*turns, {"role": "assistant", "content": HELD_PLACE}]}, False
    if "prompt" in row and not {"completion", "accepted_completion", "response", "chosen"} & set(row):
        return {**row, "completion": HELD_PLACE}, False
    return row, True


def _documents(key: str, work: Work, line: Line, row: Row | BadRow) -> list[Document]:
    try:
        if isinstance(row, BadRow):
            raise row
        asked = conversations.read(row, {}, "auto", work.data, work.chat, work.method)
        return documents.of_row(work, asked, line)[0]
    except BadRow as bad:
        what = f"{line.place}:{line.number}: {bad.reason}: {bad.detail}"
        raise ConfigError(Problem(key, what, "mend the row, or leave it out")) from None


def _row(document: Document, ids: list[int]) -> dict[str, Any]:
    size = len(ids)
    return {"input_ids": ids, "mask": document.mask[:size].tolist(), "lengths": [size], "answers": [document.answer]}


def places(config: Config) -> Iterator[tuple[str, str]]:
    """The files that are named, each with its key."""
    for key in ("prompts", "general"):
        place = getattr(config.evaluate, key)
        if isinstance(place, str) and not place.startswith("builtin:"):
            yield f"evaluate.{key}", place
