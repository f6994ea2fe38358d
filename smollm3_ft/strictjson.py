"""JSON as a row of data must be: every key once, no NaN, objects only. Everything else is a bad row that says why."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from smollm3_ft.errors import DataError
from smollm3_ft.formats import BadRow

# Far less than what Python can recurse into, which would strike at a depth that depends on who calls.
DEEPEST = 200
SPACE = re.compile(r"[ \t\r\n]*")
KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a truth value", type(None): "null"}
ONE_A_LINE = "; rows over several lines, or in a list, belong in a .json file"

Found = tuple[int, int, dict[str, Any] | BadRow]  # line or row number, size in characters, the row or why it is bad


def parse(raw: bytes) -> dict[str, Any] | BadRow:
    """The row in a line of a JSON-lines file."""
    try:
        text = raw.decode()
        value = STRICT.decode(text)
    except UnicodeDecodeError as error:
        return BadRow("not_utf8", f"byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        hint = ONE_A_LINE if text.lstrip().startswith("[") or text.strip() == "{" else ""
        return BadRow("malformed_json", f"{error.msg} at column {error.colno}{hint}")
    except RecursionError:
        return _too_deep()
    except BadRow as bad:
        return bad.with_traceback(None)  # which would hold the whole line
    except ValueError as error:  # a number of thousands of digits
        return BadRow("malformed_json", str(error))
    return _row(value, raw.count(b"{") + raw.count(b"["), ONE_A_LINE)


def rows(pieces: Iterable[bytes], place: str) -> Iterator[Found]:
    """The rows of a JSON list, or the one object, each with the line where it begins. Memory does not grow with them.

    Raises DataError at the line from where on no row can be told.
    """
    window = _Window(_decoded(pieces), place)
    first = _skip_space(window)
    if first == "[":
        yield from _items(window)
    elif first:
        yield _value(window)
    if _skip_space(window):
        raise DataError(f"{place}:{window.line} holds more after its end", "name it .jsonl if it is one object a line")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        ((name, times),) = Counter(name for name, _ in pairs).most_common(1)
        raise BadRow("duplicate_key", f"the key {name!r} stands {times} times in one object")
    return row


def _refuse(constant: str) -> NoReturn:
    raise BadRow("malformed_json", f"{constant} is not JSON")


STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse)
LENIENT = json.JSONDecoder(parse_int=str)  # finds where a value ends that is refused


def _row(value: Any, brackets: int, hint: str = "") -> dict[str, Any] | BadRow:
    if not isinstance(value, dict):
        return BadRow("not_an_object", f"a row is an object, this is {KINDS[type(value)]}{hint}")
    return _too_deep() if brackets > DEEPEST and _is_deep(value) else value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        children = (child for held in level for child in (held.values() if isinstance(held, dict) else held))
        level = [child for child in children if isinstance(child, dict | list)]
    return bool(level)


def _too_deep() -> BadRow:
    return BadRow("malformed_json", f"nested more than {DEEPEST} deep")


@dataclass
class _Window:
    """The part of a file that is looked at: what was read and not yet used begins at `at`, in line `line`."""

    pieces: Iterator[str]
    place: str
    text: str = ""
    at: int = 0
    line: int = 1


def _decoded(pieces: Iterable[bytes]) -> Iterator[str]:
    # What is no UTF-8 stays, as half characters that no UTF-8 can hold: only the rows that have them are bad.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _items(window: _Window) -> Iterator[Found]:
    _advance(window, window.at + 1)
    if _skip_space(window) == "]":
        _advance(window, window.at + 1)
        return
    while True:
        yield _value(window)
        following = _skip_space(window)
        if following not in (",", "]"):
            raise _broken(window, window.at, "a comma is missing" if following else "the list is not closed")
        _advance(window, window.at + 1)
        if following == "]":
            return


def _value(window: _Window) -> Found:
    _skip_space(window)
    while True:
        try:
            value, end = _decode(window.text, window.at)
        except json.JSONDecodeError as error:
            # What is only cut off goes on in the next piece.
            cut = error.msg.startswith("Unterminated string") or error.pos > len(window.text) - 16
            if cut and _read_more(window):
                continue
            at = error.pos - error.msg.startswith("Invalid control character")  # which is told by the one behind it
            raise _broken(window, at, error.msg) from None
        except RecursionError:
            raise _broken(window, window.at, "nested too deeply") from None
        if end == len(window.text) and _read_more(window):  # a number may go on
            continue
        break
    line, text = window.line, window.text[window.at : end]
    row = value if isinstance(value, BadRow) else _row(value, text.count("{") + text.count("["))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            where = f"byte 0x{ord(text[error.start]) - 0xDC00:02x} in line {line + text.count(chr(10), 0, error.start)}"
            row = BadRow("not_utf8", where)
    _advance(window, end)
    return line, len(text), row


def _decode(text: str, at: int) -> tuple[Any, int]:
    try:
        return STRICT.raw_decode(text, at)
    except json.JSONDecodeError:
        raise
    except BadRow as error:
        bad = error.with_traceback(None)
    except ValueError as error:
        bad = BadRow("malformed_json", str(error))
    return bad, LENIENT.raw_decode(text, at)[1]


def _skip_space(window: _Window) -> str:
    """The next character that is no white space, or nothing at the end."""
    while True:
        found = SPACE.match(window.text, window.at)
        assert found is not None
        _advance(window, found.end())
        if window.at < len(window.text):
            return window.text[window.at]
        if not _read_more(window):
            return ""


def _advance(window: _Window, at: int) -> None:
    window.line += window.text.count("\n", window.at, at)
    window.at = at


def _read_more(window: _Window) -> bool:
    """Take in as much again as is left, so that a long value is begun anew only a few times."""
    taken = [window.text[window.at :]]
    size, wanted = 0, max(1, len(taken[0]))
    for piece in window.pieces:
        taken.append(piece)
        size += len(piece)
        if size >= wanted:
            break
    window.text, window.at = "".join(taken), 0
    return size > 0


def _broken(window: _Window, at: int, why: str) -> DataError:
    line = window.line + window.text.count("\n", window.at, at)
    return DataError(f"{window.place}:{line} is not JSON ({why})", "mend the file: no row after it can be told")
