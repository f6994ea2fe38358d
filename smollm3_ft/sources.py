"""Where rows come from: local files and datasets on the Hub, pinned before anything is read."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from smollm3_ft import files, hub, reading
from smollm3_ft.config import Data, Source
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.reading import Block, Line

__all__ = ["Line", "SourcePlan", "blocks", "count", "fetch", "is_on_hub", "locate", "read"]

BUILTIN = {"builtin:demo": Path(__file__).parent / "builtin" / "demo"}
HELD_OUT = ("test", "validation")
ENDINGS = ".jsonl, .json, .csv, .tsv, .txt (each also with .gz or .zst behind) or .parquet"
DIGESTS = ".sources.json"
SETTLED_NS = 2_000_000_000  # within a clock's tick of a change, another one need not show in the file's times
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
    weight: float | None = None
    config: str | None = None
    revision: str | None = None
    # For files: the paths of each split. For the Hub: the dataset's own name of each.
    splits: dict[str, tuple[str, ...]]
    # For the Hub, once fetched: the Arrow files of each split on this machine.
    cached: dict[str, tuple[str, ...]] | None = None
    digest: str
    # For files: what is in them, wherever they lie and whatever they are called; one file's own SHA-256.
    content: str | None = None


def locate(
    data: Data, runs_dir: Path | None = None, revisions: Mapping[str, str] | None = None
) -> tuple[SourcePlan, ...]:
    """Find and pin every source. Raises ConfigError for one that is not there or cannot be read.

    With `runs_dir`, a file that is as it was when it was last looked at is not read again. A dataset of the Hub is
    pinned to its commit in `revisions`, or else to the one it has now.
    """
    listed = data.source if isinstance(data.source, tuple) else (_single(data),)
    names: Names = {"train": ("train",)}
    for split, given in (("validation", data.validation), ("test", data.test)):
        names[split] = (given,) if isinstance(given, str) else ALIASES[split] if given is not None else ()
    record = runs_dir / DIGESTS if runs_dir else None
    return tuple(_locate(source, names, record, revisions or {}) for source in listed)


def fetch(source: SourcePlan) -> SourcePlan:
    """The source with all that reading needs on this machine: a Hub dataset is downloaded. Files are as they were."""
    if source.kind == "files":
        return source
    cached = {
        split: hub.dataset_files(source.source, source.config, name, source.revision)
        for split, (name,) in source.splits.items()
    }
    return source.model_copy(update={"cached": cached})


def blocks(source: SourcePlan, split: str) -> Iterator[Block]:
    """A split in blocks, in order. Raises DataError where a file cannot be read."""
    if source.kind == "files":
        for name in source.splits.get(split, ()):
            yield from reading.blocks(Path(name))
        return
    first = 1
    for name in ((source if source.cached is not None else fetch(source)).cached or {}).get(split, ()):
        for block in reading.blocks(Path(name), f"{source.source}:{source.splits[split][0]}", first):
            yield block
            first += len(block.content)


def read(source: SourcePlan, split: str) -> Iterator[Line]:
    """Every row of a split, each exactly once, bad ones included. Raises DataError where a file cannot be read."""
    for block in blocks(source, split):
        yield from reading.lines(block)


def count(source: SourcePlan, split: str) -> int:
    """The rows of a split, bad ones included; what is in them is not looked at where lines or the file tell."""
    if source.kind == "files":
        return sum(reading.count_rows(Path(name)) for name in source.splits.get(split, ()))
    return sum(map(reading.count, blocks(source, split)))


def _single(data: Data) -> Source:
    assert isinstance(data.source, str)
    return Source(source=data.source, config=data.config, split=data.split, format=data.format, columns=data.columns)


def _locate(source: Source, names: Names, record: Path | None, revisions: Mapping[str, str]) -> SourcePlan:
    if source.source in BUILTIN:
        folder = BUILTIN[source.source]
        return _locate_files(source, sorted(folder.glob("*.jsonl")), names, folder, record)
    path = Path(source.source)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if _is_readable(p) and not _is_hidden(p, path))
        return _locate_files(source, found, names, path, record)
    if path.is_file():
        if not _is_readable(path):
            what = (
                f"{path.name} cannot be read: its ending is {path.suffix}" if path.suffix else f"{path} has no ending"
            )
            raise ConfigError(Problem("data.source", what, f"use {ENDINGS}"))
        return _locate_files(source, [path], names, path.parent, record)
    if path.exists():
        raise ConfigError(Problem("data.source", f"{path} is neither a file nor a folder", "give one with rows"))
    if any(character in source.source for character in "*?["):
        named = glob.glob(source.source, recursive=True)  # noqa: PTH207  # a pattern may be absolute
        found = sorted(path for path in map(Path, named) if _is_readable(path))
        fixed = Path(re.split(r"[*?\[]", source.source)[0] + "x").parent  # the part without wildcards
        return _locate_files(source, found, names, fixed, record)
    if not is_on_hub(source.source):
        remedy = "give a file, a folder, a glob, a Hub dataset, or builtin:demo"
        raise ConfigError(Problem("data.source", f"there is no {source.source}", remedy))
    return _locate_hub(source, names, revisions.get(source.source))


def _is_readable(path: Path) -> bool:
    return reading.ending(path) in reading.READABLE and not path.is_dir()


def _locate_files(source: Source, paths: list[Path], names: Names, root: Path, record: Path | None) -> SourcePlan:
    if not paths:
        remedy = f"files end in {ENDINGS}"
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
    digests = _digests([name for held in splits.values() for name in held], record)
    return SourcePlan(
        source=source.source,
        kind="files",
        format=source.format,
        columns=source.columns,
        weight=source.weight,
        splits={split: tuple(held) for split, held in splits.items() if held},
        digest=_digest(source.source, splits, digests),
        content=digests[0][1] if len(digests) == 1 else files.digest([digest for _, digest in digests]),
    )


def altered(pinned: Iterable[SourcePlan], runs_dir: Path) -> list[str]:
    """Sources whose files on this machine are not as they were pinned."""
    local = [source for source in pinned if source.kind == "files"]
    record = runs_dir / DIGESTS
    return [source.source for source in local if _digest_now(source, record) != source.digest]


def _digest_now(source: SourcePlan, record: Path | None) -> str:
    splits = {split: list(source.splits.get(split, ())) for split in ("train", "validation", "test")}
    return _digest(source.source, splits, _digests([name for held in splits.values() for name in held], record))


def _digest(source: str, splits: dict[str, list[str]], digests: list[tuple[str, str]]) -> str:
    return files.digest([splits, digests] if source not in BUILTIN else [digest for _, digest in digests])


def _digests(names: list[str], record: Path | None) -> list[tuple[str, str]]:
    """Each file's name and digest. Only files that are not as they were when `record` was written are read."""
    known = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # what is broken is made anew
        known = dict(files.read_json(record)["files"]) if record else {}
    found, fresh = [], {}
    try:
        for name in names:
            path = Path(name).absolute()
            before, now = _state(path), time.time_ns()
            entry = known.get(str(path))
            if not (isinstance(entry, list) and entry[:-1] == before):
                entry = [*before, files.sha256(path)]
                # A change after this must show in the file's times, or the digest could not be trusted.
                if now - path.stat().st_ctime_ns > SETTLED_NS and _state(path) == before:
                    fresh[str(path)] = entry
            found.append((name, str(entry[-1])))
    except OSError as error:
        what = f"{error.filename} cannot be read ({error.strerror})"
        raise ConfigError(Problem("data.source", what, "see that it is there, and yours to read")) from None
    if record and fresh:
        kept = {name: entry for name, entry in {**known, **fresh}.items() if Path(name).exists()}
        with contextlib.suppress(OSError):  # reading the files again costs no more than time
            files.write_json(record, {"files": kept})
    return found


def _state(path: Path) -> list[int]:
    """What differs after a file was changed, even where its size and its time of change were put back."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ConfigError(Problem("data.source", f"{path} is no file that can be read", "take it out of the folder"))
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


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
    stem = path.name[: -len(reading.ending(path))]
    rest = stem.removeprefix(name)
    return (path.parent != root and path.parent.name == name) or (stem.startswith(name) and not rest[:1].isalnum())


def _locate_hub(source: Source, names: Names, revision: str | None) -> SourcePlan:
    commit = hub.dataset_commit(source.source, revision)
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
        weight=source.weight,
        config=config,
        revision=commit,
        splits={split: held for split, held in splits.items() if held},
        digest=files.digest([source.source, commit, config, splits]),
    )


def is_on_hub(place: str) -> bool:
    """Whether a source names a dataset on the Hub, and nothing on this machine."""
    path = Path(place)
    named_here = path.is_absolute() or bool(path.suffix) or place.startswith((".", "~", "builtin:"))
    is_here = os.path.exists(place)  # noqa: PTH110  # which is False, too, of a name that is too long
    return not (is_here or named_here or place.count("/") > 1 or any(character in place for character in "*?["))
