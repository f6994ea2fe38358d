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
    formats = ", ".join(FORMATS)
    refused = [
        ("model.trust_remote_code", config.model.trust_remote_code, "true", "leave it false"),
    ]
    for source in sources:
        known = source.format == "auto" or source.format in FORMATS
        refused.append(("data.format", not known, source.format, f"use auto, {formats}"))
    for key, is_refused, value, remedy in refused:
        if is_refused:
            yield Problem(key, f"{value} is not built yet", remedy)
