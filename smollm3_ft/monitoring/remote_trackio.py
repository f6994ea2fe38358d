"""Trackio on another machine: a server by its URL, or a Space. Sent through Trackio's own client.

Who may write: a server wants TRACKIO_WRITE_TOKEN. A Space asks the Hub about the token that comes with the request:
TRACKIO_SPACE_TOKEN where the Space has it and keeps it (no HF_READ_TOKEN takes its place), else the user's own, sent
with the request and kept nowhere.
"""

from __future__ import annotations

import functools
import hashlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from smollm3_ft import hubclient, redaction
from smollm3_ft.config import tracker_of
from smollm3_ft.errors import ConfigError, Undelivered
from smollm3_ft.monitoring import trackio_rows, trackio_space
from smollm3_ft.monitoring.trackio_rows import PROJECT, Rows
from smollm3_ft.runs import Run

SECONDS = 10.0  # for an answer
API_VERSION = 1  # of the interface that all of this speaks


def log(run: Run, rows: Rows) -> None:
    """Send entries. Each is answered when it is in Trackio's database. Raises Undelivered."""
    with _client(run) as client:
        if rows.metrics:
            first, *others = ({**entry, "config": None} for entry in rows.metrics)
            logs = [{**first, "config": trackio_rows.configuration(run)}, *others]
            client.predict(api_name="/bulk_log", logs=logs, hf_token=None)
        if rows.system:
            client.predict(api_name="/bulk_log_system", logs=rows.system, hf_token=None)
        if rows.alerts:
            client.predict(api_name="/bulk_alert", alerts=rows.alerts, hf_token=None)


def attach(run: Run, files: dict[str, bytes]) -> None:
    """Send files as an artifact of the run, a new version where they changed. Raises Undelivered."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = [{"path": name, "digest": digests[name], "size": len(content)} for name, content in files.items()]
    with _client(run) as client, tempfile.TemporaryDirectory() as folder:
        from gradio_client import handle_file

        uploads = []
        for name, digest in digests.items():
            place = Path(folder) / digest
            place.write_bytes(files[name])
            uploads.append({"project": PROJECT, "digest": digest, "uploaded_file": handle_file(place)})
        client.predict(api_name="/bulk_upload_artifact_blob", project=PROJECT, uploads=uploads, hf_token=None)
        client.predict(
            api_name="/artifact_log",
            project=PROJECT,
            name=f"{run.name}-report",
            type="report",
            description=None,
            metadata=None,
            manifest=manifest,
            aliases=None,
            run_name=run.name,
            run_id=run.run_id,
            hf_token=None,
        )


def check(run: Run) -> str:
    """Make sure that Trackio is there and lets us write. Returns its address; raises Undelivered."""
    with _client(run) as client:
        client.predict(api_name="/bulk_log", logs=[], hf_token=None)  # of nothing: only the permission is looked at
        return _address(run)


@contextmanager
def _client(run: Run) -> Iterator[Any]:
    """Trackio's client for the run's tracker. What goes wrong with it, as Undelivered, with no token in it."""
    target = run.config.monitor.trackio
    try:
        yield _connected(_address(run), *_tokens(run))
    except httpx.HTTPStatusError as error:
        failed = _refused(run, error.response)
    except ConfigError as error:  # of a token
        failed = Undelivered(error.message)
    except (httpx.HTTPError, httpx.InvalidURL, ConnectionError) as error:
        failed = Undelivered(f"Trackio on {target} does not answer ({_cause(error)})")
    except (RuntimeError, ValueError) as error:  # a page that is not there, or is another: a Space that starts, a proxy
        failed = Undelivered(f"Trackio on {target} does not take this now ({_cause(error)})")
    else:
        return
    _connected.cache_clear()
    trackio_space.address.cache_clear()
    raise failed


@functools.lru_cache(maxsize=4)
def _connected(address: str, write_token: str | None, hub_token: str | None) -> Any:
    """A client that knows its server. Raises Undelivered where there is something else, or httpx's errors."""
    headers = {"authorization": f"Bearer {hub_token}"} if hub_token else {}
    options: dict[str, Any] = {"timeout": SECONDS, "verify": ssl.create_default_context()}
    answer = httpx.get(f"{address}/version", headers=headers, **options)
    answer.raise_for_status()
    try:
        about = answer.json()
    except ValueError:
        about = None
    if not isinstance(about, dict) or about.get("api_version") != API_VERSION:
        what = f"{address} is no Trackio that this version can write to"
        raise Undelivered(what, "check the address, or update Trackio there")
    from trackio.remote_client import RemoteClient

    return RemoteClient(address, hf_token=hub_token, write_token=write_token, httpx_kwargs=options)


def _address(run: Run) -> str:
    """Where the tracker answers, without a slash at its end."""
    monitor = run.config.monitor
    if tracker_of(run.config) == "server":
        return monitor.trackio.rstrip("/")
    return trackio_space.address(monitor.trackio, monitor.private)


def _tokens(run: Run) -> tuple[str | None, str | None]:
    """Trackio's token for a server of one's own, the Hub's for a Space; never one to the other."""
    if tracker_of(run.config) == "server":
        return secret("TRACKIO_WRITE_TOKEN"), None
    kept = None if hubclient.read_token() else trackio_space.space_token()  # a read token takes its place
    return None, kept or trackio_space.own_token()


def secret(name: str) -> str | None:
    """A token from the environment. Raises Undelivered where it cannot be one: a client's own error would show it."""
    token = os.environ.get(name, "").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Undelivered(f"{name} holds something that is no token", "set it to the token alone")
    return token or None


def _refused(run: Run, answer: httpx.Response) -> Undelivered:
    """What a server's refusal means."""
    target = run.config.monitor.trackio
    try:
        said = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = answer.reason_phrase
    if "write_token" in said or "write access" in said or answer.status_code in (401, 403):
        own = tracker_of(run.config) == "server"
        remedy = "set TRACKIO_WRITE_TOKEN to its write token" if own else "see that HF_TOKEN may write there"
        return Undelivered(f"Trackio on {target} does not let us write", remedy)
    return Undelivered(f"Trackio on {target} answers {answer.status_code}: {_line(said)}")


def _cause(error: Exception) -> str:
    """In a line; of a header that cannot be sent only the kind, for its text holds the token."""
    name = type(error).__name__
    return name if isinstance(error, httpx.ProtocolError) else _line(str(error)) or name


def _line(text: str) -> str:
    return redaction.redacted(text.strip().partition("\n")[0])[:200]
