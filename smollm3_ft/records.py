"""What makes a step's output reusable: a record, written last, of what was made, from what, and every file of it.

The record holds the step's fingerprint. Without a record, or with a file gone or altered, the output does not count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smollm3_ft import files

RECORD = "record.json"


def write(path: Path, fingerprint: str, values: dict[str, Any], content: Path) -> None:
    """Record at `path` that all files below `content` are complete, with the step's `values`."""
    listed = {str(file.relative_to(content)): _entry(file) for file in _files(content) if file != path}
    files.write_json(path, {"fingerprint": fingerprint, "values": values, "files": listed})


def read(path: Path, fingerprint: str, content: Path) -> dict[str, Any] | None:
    """The step's values, or None where there is no record of this fingerprint or a file is not as recorded."""
    try:
        record = files.read_json(path)
        if record["fingerprint"] != fingerprint:
            return None
        if not all(_is_as_recorded(content / name, entry) for name, entry in record["files"].items()):
            return None
        return dict(record["values"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged record is no record: the step is done again


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": files.sha256(path)}


def _is_as_recorded(path: Path, entry: dict[str, Any]) -> bool:
    """Size and time as recorded, or else (a copied folder) the same content."""
    stat = path.stat()
    if stat.st_size != entry["size"]:
        return False
    return bool(stat.st_mtime_ns == entry["mtime_ns"] or files.sha256(path) == entry["sha256"])
