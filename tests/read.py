"""What is read of a file, as tests compare it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smollm3_ft import reading
from smollm3_ft.formats import BadRow


def shown(lines: Iterable[reading.Line]) -> list[tuple[int, Any]]:
    """The line and the row (or why there is none) of everything that is read."""
    return [(line.number, line.row.reason if isinstance(line.row, BadRow) else line.row) for line in lines]


def lines(path: Path) -> list[tuple[int, Any]]:
    return shown(line for block in reading.blocks(path) for line in reading.lines(block))


def details(path: Path) -> list[str]:
    found = (line.row for block in reading.blocks(path) for line in reading.lines(block))
    return [row.detail for row in found if isinstance(row, BadRow)]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
