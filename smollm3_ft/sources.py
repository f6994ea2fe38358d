"""Where rows come from: local JSON and JSON-lines files and datasets on the Hub, pinned before anything is read."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from smollm3_ft import files, hub
from smollm3_ft.config import Data, Source
from smollm3_ft.errors import ConfigError, DataError, Problem
from smollm3_ft.formats import BadRow

BUILTIN = {"builtin:demo": Path(__file__).parent / "builtin" / "demo"}
READABLE = (".jsonl", ".json")
HELD_OUT = ("test", "validation")
# What the Hub calls held-out, in names of files and folders.
ALIASES = {"test": ("test", "testing", "eval", "evaluation"), "validation": ("validation", "valid", "val", "dev")}


Names = dict[str, tuple[str, ...]]  # of each split, what it may be called


class SourcePlan(BaseModel):
    """One source, pinned: its files and their digest, or a Hub dataset's commit; and which of its splits are which."""

    model_config = ConfigDict(frozen=True)

    source: str
    kind: Literal["files", "hub"]
    format: str
    columns: dict[str, str] | None = None
    config: str | None = None
    revision: str | None = None
    # For files: the paths of each split. For the Hub: the dataset's own name of each.
    splits: dict[str, tuple[str, ...]]
    digest: str


class Line(NamedTuple):
    """A row where it was found: the place a user knows it by, its 1-based line, and its content or why it is bad."""

    place: str
    number: int
    row: dict[str, Any] | BadRow


def locate(data: Data) -> tuple[SourcePlan, ...]:
    """Find and pin every source. Raises ConfigError for one that is not there or cannot be read."""
    listed = data.source if isinstance(data.source, tuple) else (_single(data),)
    names: Names = {"train": ("train",)}
    for split, given in (("validation", data.validation), ("test", data.test)):
        names[split] = (given,) if isinstance(given, str) else ALIASES[split] if given is not None else ()
    return tuple(_locate(source, names) for source in listed)


def read(source: SourcePlan, split: str) -> Iterator[Line]:
    """Every row of a split, each exactly once, bad ones included. Raises DataError where a file cannot be read."""
    if source.kind == "hub":
        yield from _read_hub(source, split)
        return
    for name in source.splits.get(split, ()):
        path = Path(name)
        yield from _read_json(path) if path.suffix == ".json" else _read_lines(path)


def _single(data: Data) -> Source:
    assert isinstance(data.source, str)
    return Source(source=data.source, config=data.config, split=data.split, format=data.format, columns=data.columns)


def _locate(source: Source, names: Names) -> SourcePlan:
    if source.source in BUILTIN:
        return _locate_files(source, sorted(BUILTIN[source.source].glob("*.jsonl")), names, BUILTIN[source.source])
    path = Path(source.source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix in READABLE and not _is_hidden(p, path))
        return _locate_files(source, found, names, path)
    if path.is_file():
        if path.suffix not in READABLE:
            what = f"{path.name}: reading {path.suffix or 'files without an ending'} is not built yet"
            raise ConfigError(Problem("data.source", what, f"use {' or '.join(READABLE)}"))
        return _locate_files(source, [path], names, path.parent)
    if any(character in source.source for character in "*?["):
        named = glob.glob(source.source, recursive=True)  # noqa: PTH207  # a pattern may be absolute
        found = sorted(Path(name) for name in named if Path(name).suffix in READABLE)
        fixed = Path(re.split(r"[*?\[]", source.source)[0] + "x").parent  # the part without wildcards
        return _locate_files(source, found, names, fixed)
    if not is_on_hub(source.source):
        remedy = "give a file, a folder, a glob, a Hub dataset, or builtin:demo"
        raise ConfigError(Problem("data.source", f"there is no {source.source}", remedy))
    return _locate_hub(source, names)


def _locate_files(source: Source, paths: list[Path], names: Names, root: Path) -> SourcePlan:
    if not paths:
        remedy = f"files end in {' or '.join(READABLE)}"
        raise ConfigError(Problem("data.source", f"{source.source} holds no file to read", remedy))
    if source.config is not None:
        raise ConfigError(Problem("data.config", "is for Hub datasets", "leave it out for local files"))
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for path in paths:
        split = _split_of(path, names, root) if len(paths) > 1 else "train"
        if split is not None:
            splits[split].append(str(path))
    if source.split is not None:  # one split of a folder, by the names of its files; it is held out no more
        splits["train"] = [str(path) for path in paths if _is_named(path, source.split, root)]
        for split in HELD_OUT:
            splits[split] = [name for name in splits[split] if name not in splits["train"]]
    if not splits["train"]:
        raise ConfigError(Problem("data.source", f"{source.source} has no training file", "name files train-*.jsonl"))
    try:
        content = [(name, files.sha256(Path(name))) for held in splits.values() for name in held]
    except OSError as error:
        raise ConfigError(Problem("data.source", f"{error.filename}: {error.strerror}")) from None
    return SourcePlan(
        source=source.source,
        kind="files",
        format=source.format,
        columns=source.columns,
        splits={split: tuple(held) for split, held in splits.items() if held},
        digest=files.digest([splits, content] if source.source not in BUILTIN else [d for _, d in content]),
    )


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _split_of(path: Path, names: Names, root: Path) -> str | None:
    """The split that a file or its folder is named after; training where there is none; None for one not wanted."""
    for split in HELD_OUT:
        if any(_is_named(path, name, root) for name in names[split]):
            return split
        if not names[split] and any(_is_named(path, name, root) for name in ALIASES[split]):
            return None
    return "train"


def _is_named(path: Path, name: str, root: Path) -> bool:
    """Whether a file is called `name`, `name-…`, `name_….`, or lies in a folder of that name below `root`."""
    rest = path.stem.removeprefix(name)
    return (path.parent != root and path.parent.name == name) or (path.stem.startswith(name) and not rest[:1].isalnum())


def _locate_hub(source: Source, names: Names) -> SourcePlan:
    commit = hub.dataset_commit(source.source)
    config, available = hub.dataset_splits(source.source, source.config, commit)
    train = source.split or "train"
    if train not in available:
        what = f"{source.source} has no split {train}"
        raise ConfigError(Problem("data.split", what, f"it has {', '.join(available[:20])}"))
    splits: Names = {"train": (train,)}
    for split in HELD_OUT:  # the split that is trained on is not held out
        splits[split] = tuple(name for name in names[split] if name in available and name != train)[:1]
    return SourcePlan(
        source=source.source,
        kind="hub",
        format=source.format,
        columns=source.columns,
        config=config,
        revision=commit,
        splits={split: held for split, held in splits.items() if held},
        digest=files.digest([source.source, commit, config, splits]),
    )


def _read_hub(source: SourcePlan, split: str) -> Iterator[Line]:
    for name in source.splits.get(split, ()):
        rows = hub.dataset_rows(source.source, source.config, name, source.revision)
        for number, row in enumerate(rows, start=1):
            yield Line(f"{source.source}:{name}", number, dict(row))


def _read_lines(path: Path) -> Iterator[Line]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if line.strip():
                    yield Line(str(path), number, _parse(line))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None


def _read_json(path: Path) -> Iterator[Line]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno} is not JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from None
    for number, row in enumerate(content if isinstance(content, list) else [content], start=1):
        yield Line(
            str(path), number, row if isinstance(row, dict) else BadRow("not_an_object", "a JSON object is a row")
        )


def _parse(line: bytes) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        return BadRow("malformed_json", f"{error.msg} at column {error.colno}")
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        return BadRow("malformed_json", str(error))
    return row if isinstance(row, dict) else BadRow("not_an_object", "a JSON object is a row")


def is_on_hub(place: str) -> bool:
    """Whether a source names a dataset on the Hub, and nothing on this machine."""
    path = Path(place)
    named_here = path.is_absolute() or bool(path.suffix) or place.count("/") > 1 or place.startswith((".", "builtin:"))
    return not (path.exists() or named_here or any(character in place for character in "*?["))
