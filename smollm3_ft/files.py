"""Files that are complete or not there, and digests of what is in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace `path` as a whole: written beside it, flushed to the disk, then renamed."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}-{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object with its `schema_version`, as a whole."""
    text = json.dumps({"schema_version": 1, **value}, indent=2, ensure_ascii=False, default=str)
    write(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises OSError or ValueError as they come."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object")  # noqa: TRY004  # one kind for every bad content
    return value


def read_json_if_there(path: Path) -> dict[str, Any]:
    """A JSON object without its `schema_version`; nothing for a file that is not there or damaged."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    value.pop("schema_version", None)
    return value


def move_folder(partial: Path, final: Path) -> None:
    """Put a finished folder in its place: every file flushed, then renamed. Replaces what was there."""
    sync_tree(partial)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        old = final.with_name(f".partial-old-{final.name}-{os.getpid()}")
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old)
    else:
        partial.rename(final)
    sync_folder(final.parent)


def clear_partial(final: Path) -> None:
    """Remove what a `write` or `move_folder` to `final` left beside it when it was cut short. One process may write."""
    for pattern in (f".partial-{final.name}", f".partial-{final.name}-*", f".partial-old-{final.name}-*"):
        for left in final.parent.glob(pattern):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for path in sorted(folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """A digest of plain data, the same for equal data; 32 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_of(paths: Iterable[Path]) -> str:
    """A digest of files by name and content, in the order of their names."""
    return digest([(path.name, sha256(path)) for path in sorted(paths)])


def gib(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
