"""The Hub's client as this project uses it: it waits for so long and no longer, and is asked again where that helps.

By itself `huggingface_hub` waits for ever for a server that has gone silent, and repeats neither a commit, nor the
creation of a repository, nor a question about one.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from smollm3_ft import redaction
from smollm3_ft.errors import ConfigError, HubUnreachable, Problem

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

CONNECTING, SILENT = 10.0, 60.0  # seconds to wait for a connection, and for the next bytes on it
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between two attempts, doubled each time
SHORT = 5.0  # seconds that are waited without a word
CONFLICT = 412  # somebody else has committed since
MAY_PASS = (408, CONFLICT, 425, 429, 500, 502, 503, 504)
FORBIDDEN = (401, 403)
Answer = TypeVar("Answer")


def api() -> HfApi:
    """The Hub, asked with the token of the environment or of `hf auth login`."""
    from huggingface_hub import HfApi

    limit_waiting()
    return HfApi()


def read_token() -> str | None:
    """HF_READ_TOKEN: what a Space may have that only reads. Raises ConfigError where it is the user's own token."""
    from huggingface_hub import get_token

    token = os.environ.get("HF_READ_TOKEN", "").strip() or None
    if token is not None and token == get_token():
        what = "is your own HF_TOKEN, which no Space may have"
        raise ConfigError(Problem("HF_READ_TOKEN", what, "make one that only reads, or leave it out"))
    return token


@functools.cache
def limit_waiting() -> None:
    """Give up a request after SILENT seconds without a byte, in every use of the client in this process.

    Nothing is said of attempts that are repeated: what fails in the end is said by who asked.
    """
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def limit(request: httpx2.Request) -> None:
        # Not the client's own timeout: some calls, such as `repo_info`, take it away again with a None of their own.
        given = request.extensions.get("timeout", {})
        usual = {"connect": CONNECTING, "read": SILENT, "write": SILENT, "pool": SILENT}
        request.extensions["timeout"] = {name: given.get(name) or seconds for name, seconds in usual.items()}

    def made() -> httpx2.Client:
        client = default_client_factory()
        client.event_hooks["request"].append(limit)
        return client

    set_client_factory(made)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what is tried again is no news


def insist(ask: Callable[[], Answer], patience: float, on_wait: Callable[[str], None] | None = None) -> Answer:
    """What `ask` returns, asked again for `patience` seconds while what goes wrong may pass by itself.

    What may pass is a server that is away, silent, or busy, an answer that is cut short, and a commit of somebody else
    (412): `ask` must be safe to repeat, and look at the repository's head each time. The server's wait is respected.
    Waiting is what counts, and of an attempt no more than a silence: one that took longer has transferred something.
    Pauses that are not short are told to `on_wait`.
    Raises HubUnreachable where it does not pass; a refusal is raised at once, as the client's own error.
    """
    waited, wait = 0.0, FIRST_WAIT
    while True:
        began = time.monotonic()
        try:
            return ask()
        except Exception as error:
            if not may_pass(error):
                refused = refusal(error)
                if refused is None or refused is error or isinstance(error, ValueError):
                    raise  # a card that the Hub refuses has its reasons in the client's own words
                raise refused from None  # the client wraps those of large files
            pause = _asked_wait(error) or wait * random.uniform(0.5, 1.5)  # noqa: S311  # several wait, not in step
            waited += min(time.monotonic() - began, SILENT) + pause
            if waited > patience:
                raise HubUnreachable(f"the Hub does not answer as it should ({cause(error)})", "try again") from None
            if on_wait is not None and pause > SHORT:
                on_wait(f"the Hub does not answer as it should ({cause(error)}): asked again in {pause:.0f} seconds")
        time.sleep(pause)
        wait = min(2 * wait, LONGEST_WAIT)


def may_pass(error: BaseException) -> bool:
    """Whether asking again can help. Raises ConfigError for a token that cannot even be sent."""
    import httpx2

    refused = refusal(error)
    if refused is not None:
        return refused.response.status_code in MAY_PASS
    check_token(error)
    return any(isinstance(one, httpx2.TransportError) for one in _chain(error))


def is_gone(repo: str, revision: str | None = None, kind: str = "model") -> bool:
    """Whether the Hub says that it has no such repository or commit, to who has a token; else it says nothing."""
    import httpx2
    from huggingface_hub import errors, get_token

    if get_token() is None:
        return False
    try:
        api().repo_info(repo, revision=revision, repo_type=kind, timeout=CONNECTING)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        return True
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx2.TransportError):
        return False
    return False


def check_token(error: BaseException) -> None:
    """Raise ConfigError where the token cannot be sent: the error's own text holds the header, and the token in it."""
    import httpx2

    if any(isinstance(one, httpx2.LocalProtocolError | UnicodeEncodeError) for one in _chain(error)):
        remedy = "copy it again, without a line break or a space"
        raise ConfigError(Problem("HF_TOKEN", "holds characters that no token has", remedy)) from None


def refusal(error: BaseException) -> HfHubHTTPError | None:
    """The Hub's answer that an error is about; None where there was none."""
    from huggingface_hub.errors import HfHubHTTPError

    told = (one for one in _chain(error) if isinstance(one, HfHubHTTPError))
    return next((one for one in told if getattr(one, "response", None) is not None), None)


def is_forbidden(error: BaseException) -> bool:
    refused = refusal(error)
    return refused is not None and refused.response.status_code in FORBIDDEN


def cause(error: BaseException) -> str:
    """What went wrong, in a line, without a token: a refusal may say what it was sent."""
    refused = refusal(error)
    last = refused or list(_chain(error))[-1]
    lines = str(last).strip().splitlines()
    return redaction.redacted(lines[0]) if lines else type(last).__name__


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what caused it: the client wraps some."""
    found = [error]
    while found[-1].__cause__ is not None:
        found.append(found[-1].__cause__)
    return found


def _asked_wait(error: BaseException) -> float | None:
    """The seconds that the server asks to wait."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    refused = refusal(error)
    if refused is None:
        return None
    limit = parse_ratelimit_headers(refused.response.headers)
    if refused.response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds + 1)
    told = refused.response.headers.get("Retry-After", "")
    return float(told) + random.random() if told.isdigit() else None  # noqa: S311
