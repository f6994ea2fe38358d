"""The rows that preparation kept, as others read them: Parquet files of messages, pairs or texts, by split.

A row is whole, as its source has it and as the settings ask for it (system prompt, thinking), also where training would
cut it; where it comes from stands beside it. Prepared again, the same rows give the same tokens.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smollm3_ft import chat, conversations, files, reading, shards, sources
from smollm3_ft.config import Data
from smollm3_ft.conversations import Asked
from smollm3_ft.errors import DataError
from smollm3_ft.formats import KINDS
from smollm3_ft.gathered import SPLITS
from smollm3_ft.rendering import Question
from smollm3_ft.sources import BUILTIN, SourcePlan

CONFIGS = {
    "conversation": "messages",
    "pair": "pairs",
    "labelled": "labelled",
    "ranked": "ranked",
    "text": "texts",
}
MESSAGE = {  # what a message may have, and its type
    "role": pa.string(),
    "content": pa.string(),
    "tool_calls": pa.string(),
    "name": pa.string(),
    "weight": pa.int64(),
}
OF_MESSAGES = ("messages", "chosen", "rejected", "prompt", "completion")
COLUMNS = (*OF_MESSAGES, "completions", "label", "text", "tools", "chat_template_kwargs", "enable_thinking")
TYPES = {
    **dict.fromkeys(("text", "tools", "chat_template_kwargs", "source"), pa.string()),
    **dict.fromkeys(("label", "enable_thinking"), pa.bool_()),
    "completions": pa.list_(pa.string()),
    "line": pa.int64(),
}
ROWS_AT_ONCE = 1000


class Part(NamedTuple):
    """The rows of one kind: their configuration's name, their columns, and how many there are of each split."""

    config: str
    columns: tuple[str, ...]
    rows: dict[str, int]


class Spool:
    """Rows of one kind on their way to Parquet: only all of them tell which columns there are."""

    def __init__(self, folder: Path, closing: contextlib.ExitStack) -> None:
        folder.mkdir(parents=True)
        self.files = {name: closing.enter_context((folder / name).open("w+", encoding="utf-8")) for name in SPLITS}
        self.columns: set[str] = set()
        self.of_messages: set[str] = set()
        self.rows = dict.fromkeys(SPLITS, 0)

    def add(self, split: str, row: dict[str, Any]) -> None:
        self.columns |= row.keys()
        for column in OF_MESSAGES:
            for message in row.get(column, ()):
                self.of_messages |= message.keys()
        self.rows[split] += 1
        self.files[split].write(json.dumps(row) + "\n")


def write(
    prepared: Path, pinned: Sequence[SourcePlan], data: Data, template: chat.Chat, folder: Path, spools: Path
) -> list[Part]:
    """Write the rows that the folder `prepared` keeps to `folder/data/<config>/<split>.parquet`, the commonest kind
    first. `spools` is an empty folder to work in. Raises DataError where a source is not as it was prepared."""
    found: dict[str, Spool] = {}
    with contextlib.ExitStack() as closing:
        for split, kind, row in _rows(prepared, pinned, data, template):
            config = CONFIGS[kind]
            if config not in found:
                found[config] = Spool(spools / config, closing)
            found[config].add(split, row)
        parts = [_written(spool, config, folder / "data" / config) for config, spool in found.items()]
    return sorted(parts, key=lambda part: (-sum(part.rows.values()), part.config))


def _rows(
    prepared: Path, pinned: Sequence[SourcePlan], data: Data, template: chat.Chat
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of each kept row its split, its kind and its columns, in the order of the sources."""
    places = files.read_json(prepared / "places.json")["places"]
    numbers: dict[str, list[int]] = {}
    for number, place in enumerate(places):
        numbers.setdefault(place, []).append(number)
    left = _kept(prepared)
    for source in pinned:
        for split in SPLITS:
            for block in sources.blocks(source, split):
                of_place = numbers.get(block.place, [])
                for line in reading.lines(block):
                    # A file that two sources name has several numbers, and a row of it may be kept once or twice.
                    code = next((c for number in of_place if (c := number << 32 | line.number) in left), None)
                    if code is None or not isinstance(line.row, dict):
                        continue
                    asked = conversations.read(line.row, source.columns or {}, source.format, data, template, None)
                    where = {"source": public(source, block.place), "line": line.number}
                    yield SPLITS[left.pop(code)], KINDS[asked.format], {**_row(asked), **where}
    if left:
        what = f"{len(left)} kept rows are not in their sources any more"
        raise DataError(what, "run the same command again")


def _kept(prepared: Path) -> dict[int, int]:
    """The split, as an index, of each kept row, by the number of its place and its line in one number."""
    found: dict[int, int] = {}
    for index, split in enumerate(SPLITS):
        table = shards.read(prepared / f"{split}.arrow")
        places, lines = (pc.list_flatten(table[column]).to_numpy() for column in ("places", "lines"))
        found |= dict.fromkeys((places.astype("int64") << 32 | lines).tolist(), index)
    return found


def public(source: SourcePlan, place: str) -> str:
    """A place without this machine's folders: a file by its name, in a folder that is the source by its path there."""
    if source.kind == "hub":
        return place
    path, root = Path(place), Path(source.source)
    if source.source in BUILTIN:
        return f"{source.source}/{path.name}"
    return str(Path(root.name) / path.relative_to(root)) if root.is_dir() else path.name


def _row(asked: Asked) -> dict[str, Any]:
    """A row's columns, of those that say something."""
    if asked.text is not None:
        return {"text": asked.text}
    first = asked.questions[0]
    said = [_messages(question) for question in asked.questions]
    row: dict[str, Any]
    match KINDS[asked.format]:
        case "pair":
            row = {"chosen": said[0], "rejected": said[1]}
        case "labelled":
            row = {"prompt": said[0][:-1], "completion": said[0][-1:], "label": asked.label}
        case "ranked":
            row = {"prompt": said[0][:-1], "completions": [messages[-1]["content"] for messages in said]}
        case _:
            row = {"messages": said[0]}
    if first.tools:
        row["tools"] = chat.as_json(list(first.tools))
    if first.python_tools:
        row["chat_template_kwargs"] = chat.as_json({"python_tools": list(first.python_tools)})
    if first.thinking:
        row["enable_thinking"] = True
    return row


def _messages(question: Question) -> list[dict[str, Any]]:
    return [_message(message) for message in question.messages]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as OpenAI has it; calls as JSON, since their arguments have no common type."""
    told = {"role": message["role"], "content": message["content"]}
    if "tool_calls" in message:
        told["tool_calls"] = chat.as_json(message["tool_calls"])
    if "name" in message:
        told["name"] = message["name"]
    return told if message.get("trained", True) else {**told, "weight": 0}


def _written(spool: Spool, config: str, folder: Path) -> Part:
    """The Parquet files of a spool, the same bytes for the same rows."""
    columns = (*(name for name in COLUMNS if name in spool.columns), "source", "line")
    messages = pa.list_(pa.struct({name: kind for name, kind in MESSAGE.items() if name in spool.of_messages}))
    schema = pa.schema([(name, TYPES.get(name, messages)) for name in columns])
    folder.mkdir(parents=True)
    rows = {split: count for split, count in spool.rows.items() if count}
    for split in rows:
        lines = spool.files[split]
        lines.seek(0)
        with pq.ParquetWriter(folder / f"{split}.parquet", schema, compression="zstd") as writer:
            while held := [json.loads(line) for line in itertools.islice(lines, ROWS_AT_ONCE)]:
                writer.write_table(pa.Table.from_pylist(held, schema))
    return Part(config, columns, rows)
