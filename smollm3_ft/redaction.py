"""No token in what is kept: secrets taken out of text, of log records, and of errors, and found in configurations.

A server may echo a request's header, a library's error may hold the request itself, and what leaves a step is stored
by Prefect with everything that hangs on it.
"""

from __future__ import annotations

import base64
import functools
import logging
import os
import pickle
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from smollm3_ft.environment import SECRET_WORDS
from smollm3_ft.errors import ConfigError, FinetuneError, Problem
from smollm3_ft.form import CREDENTIAL
from smollm3_ft.layers import flatten

SHORTEST = 8  # of what is taken for a secret, so that no common word is
INSTEAD = "<secret>"
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text without the secrets of the environment, and without anything that looks like a token of the Hub."""
    for secret in _secrets(environment):
        text = text.replace(secret, INSTEAD)
    return re.sub(CREDENTIAL, INSTEAD, text)


def problems(given: Mapping[str, Any], environment: Mapping[str, str]) -> Iterator[Problem]:
    """A problem for each key of a configuration, nested as given, that holds a secret, or is one."""
    for key, value in flatten(given):
        named, text = redacted(key, environment), str(value)
        if named != key or redacted(text, environment) != text:
            remedy = "a configuration is kept and shown: give secrets in the environment, as in HF_TOKEN"
            yield Problem(named, "holds a token or another secret", remedy)


def check(given: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Raise ConfigError where what was given holds a secret."""
    if held := list(problems(given, environment)):
        raise ConfigError(*held)


def guarded(work: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """The same work, whose errors hold no secret: neither in their words, nor in what hangs on them."""

    @functools.wraps(work)
    def done(*arguments: Asked.args, **named: Asked.kwargs) -> Answer:
        try:
            return work(*arguments, **named)
        except Exception as error:
            if not _holds_a_secret(error):
                raise
            clean = without_secrets(error)
        raise clean  # here, where nothing of the other one hangs on it

    return done


def without_secrets(error: Exception) -> Exception:
    """An error of the same kind where it is one of ours, which says the same but for secrets."""
    if isinstance(error, ConfigError):
        return ConfigError(*(Problem(*map(redacted, problem)) for problem in error.problems))
    if isinstance(error, FinetuneError):
        return type(error)(redacted(error.message), redacted(error.remedy))
    said = " ".join(redacted(str(error)).split())
    return FinetuneError(f"{type(error).__name__}: {said}", "run the same command to go on")


class Filter(logging.Filter):
    """Of a logger whose records are kept."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if (clean := redacted(said)) != said:
            record.msg, record.args = clean, ()
        return True


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """Their values, as they stand, as clients send them, and as errors spell them; the longest first."""
    named = {name: value for name, value in environment.items() if name.upper().endswith(SECRET_WORDS)}
    given = [value for value in named.values() if not os.path.exists(value)]  # noqa: PTH110  # a key's file is none
    sent = [value.replace("\r", "").replace("\n", "").strip() for value in given]
    sent += [base64.b64encode(value.encode()).decode() for value in sent if ":" in value]  # as Prefect's client does
    forms = {form for value in (*given, *sent) for form in (value, value.strip(), ascii(value)[1:-1])}
    return sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True)


def _holds_a_secret(error: Exception) -> bool:
    """Whether its traceback shows one, or it would be stored with it: a client's error brings the request's headers."""
    shown = "".join(traceback.format_exception(error))
    try:
        stored = pickle.dumps(error).decode("utf-8", "replace")
    except Exception:  # noqa: BLE001  # anything may hang on an error: what cannot be looked through is not kept
        return True
    return any(redacted(text) != text for text in (shown, stored))
