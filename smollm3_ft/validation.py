"""Values → Config, or what is wrong with them: a line for each wrong key, with the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from smollm3_ft.config import Config, Section, union_members
from smollm3_ft.errors import ConfigError, Problem

Whole = TypeVar("Whole", bound=Section)


def validate(values: Any) -> Config:
    """Check every key and bound; a ConfigError names each wrong key with the nearest valid one."""
    return validated(values, Config)


def validated(values: Any, section: type[Whole]) -> Whole:
    """The same of another whole of sections."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError(*_problems(error.errors(include_url=False), set(keys(section)))) from None


def keys(section: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key, sections included."""
    for key, field in section.model_fields.items():
        yield prefix + key
        for inner in sections_in(field.annotation):
            yield from keys(inner, f"{prefix}{key}.")


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a key may hold, one or a list of them."""
    for kind in union_members(annotation):
        inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
        if isinstance(inner, type) and issubclass(inner, Section):
            yield inner


def _problems(errors: Sequence[ErrorDetails], known: set[str]) -> list[Problem]:
    found: dict[str, list[str]] = {}
    for error in errors:
        # pydantic puts the alternative of a union that did not fit between the keys, or behind them
        *above, last = error["loc"]
        path = [part for part in above if isinstance(part, int) or _is_key(part)]
        unknown = error["type"] == "extra_forbidden"
        path += [last] if unknown or isinstance(last, int) or _is_key(last) else []
        named = [str(part) for part in path if not isinstance(part, int)]
        if unknown:
            near = difflib.get_close_matches(".".join(named), known, n=1, cutoff=0.5)
            found[_dotted(path)] = ["there is no such key" + (f"; did you mean {near[0]}?" if near else "")]
            continue
        while len(named) > 1 and ".".join(named) not in known:
            named.pop()
            path.pop()
        found.setdefault(_dotted(path), []).append(_wording(error))
    deepest = {key for key in found if not any(other.startswith(f"{key}.") for other in found)}
    return [Problem(key, " or ".join(dict.fromkeys(found[key]))) for key in found if key in deepest]


def _is_key(part: str) -> bool:
    return part.isidentifier() and part != "str"


def _dotted(path: Sequence[int | str]) -> str:
    return ".".join(map(str, path))


def _wording(error: ErrorDetails) -> str:
    given = error["input"]
    if error["type"] == "string_pattern_mismatch" and error["loc"] == ("name",):
        return f"may hold letters, digits, '.', '_' and '-', and start with no dot, not {given!r}"
    text = error["msg"].removeprefix("Input ").removeprefix("String ")
    if error["type"] == "literal_error" and isinstance(given, str):
        options = [word.strip("'") for word in str(error.get("ctx", {}).get("expected", "")).split(" or ")]
        near = difflib.get_close_matches(given, [o for part in options for o in part.split("', '")], n=1)
        text += f" (nearest: {near[0]})" if near else ""
    return f"{text}, not {given!r}" if not isinstance(given, dict) else text
