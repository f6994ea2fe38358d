"""Values that are valid but whose work is not there yet: refused with a clear line, never ignored."""

from __future__ import annotations

from collections.abc import Iterator

from smollm3_ft.config import Config, Source
from smollm3_ft.errors import Problem
from smollm3_ft.formats import FORMATS


def unbuilt(config: Config) -> Iterator[Problem]:
    """A problem for each value of `config` that no step can honour yet."""
    data = config.data
    sources = data.source if isinstance(data.source, tuple) else (Source(source=data.source, format=data.format),)
    for source in sources:
        if source.format != "auto" and source.format not in FORMATS:
            yield Problem("data.format", f"{source.format} is not built yet", f"use auto, {', '.join(FORMATS)}")
