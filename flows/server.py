"""The local Prefect server: started by the first command that needs one, shared, ended by the last.

It listens on loopback, with a password made for each start, CORS for its own origin alone and CSRF protection on. The
password's file is the one that holds a secret: mode 0600, in `.locks/`, gone with the server.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from smollm3_ft import files
from smollm3_ft.environment import without_secrets
from smollm3_ft.errors import FinetuneError

STARTED: list[subprocess.Popen[bytes]] = []  # servers, by this process; another may be the one that ends them
GUARDS: dict[Path, subprocess.Popen[bytes]] = {}  # by folder, of those
SECONDS_TO_START = 180
SECONDS_TO_STOP = 20
UNAUTHORIZED, NOT_FOUND = 401, 404


class Server(NamedTuple):
    """A server's address, and its `name:password` where it is one of ours."""

    url: str
    password: str | None

    @property
    def api(self) -> str:
        return f"{self.url}/api"


@contextmanager
def running(runs_dir: Path, meanwhile: Callable[[], object] = lambda: None) -> Iterator[Server]:
    """The server that `PREFECT_API_URL` names, or a local one, told to this process by its environment.

    The local one ends when the last command that uses it leaves. `meanwhile` is done when the address is known, and
    before the server answers.
    """
    named = os.environ.get("PREFECT_API_URL")
    if named:
        check(named)
        meanwhile()
        yield Server(shown(named).removesuffix("/api"), None)
        return
    folder = runs_dir / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".server-users").open("w") as users:
        try:
            with _alone(folder):
                fcntl.flock(users, fcntl.LOCK_SH)
                server, starting = _living(folder), None
                if server is None:
                    server, starting = _start(folder)
                os.environ["PREFECT_API_URL"] = server.api
                os.environ["PREFECT_API_AUTH_STRING"] = server.password or ""
                os.environ["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"] = "true"
                meanwhile()
                if starting is not None:
                    _wait_for(server, starting, folder)
            yield server
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            os.environ.pop("PREFECT_API_AUTH_STRING", None)
            with _alone(folder):
                _leave(folder, users)
            STARTED[:] = [process for process in STARTED if process.poll() is None]


def _leave(folder: Path, users: IO[str]) -> None:
    """End the server if nobody else uses it; if the guard was quicker, wait until it has."""
    fcntl.flock(users, fcntl.LOCK_UN)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(users, fcntl.LOCK_SH)  # at once where others use it
    else:
        _end(folder)
    if folder in GUARDS and not (folder / ".server").exists():  # it has nothing left to wait for
        guarding = GUARDS.pop(folder)
        guarding.terminate()
        guarding.wait()


def guard(folder: Path) -> None:
    """Wait until no command uses the server, killed ones included, and end it."""
    with (folder / ".server-users").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        _end(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[IO[str]]:
    """One command at a time starts, joins or ends the server."""
    with (folder / ".server-lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _living(folder: Path) -> Server | None:
    """The server that is there already, if it answers to its password."""
    try:
        told = json.loads((folder / ".server").read_text(encoding="utf-8"))
        server = Server(told["url"], told["password"])
    except (OSError, ValueError, KeyError):
        return None
    return server if _answers(server) else None


def _start(folder: Path) -> tuple[Server, subprocess.Popen[bytes]]:
    """A server that will answer soon, and its process."""
    _end(folder)  # one that no longer answers
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", f"local:{secrets.token_urlsafe(18)}")
    with (folder / ".server-log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={**without_secrets(os.environ), **_settings(server)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the command, which ends the server when it has reported
        )
    STARTED.append(process)
    told = {"url": server.url, "password": server.password, "pid": process.pid}
    files.write(folder / ".server", json.dumps(told), mode=0o600)
    watch = [sys.executable, "-m", "flows.server", str(folder)]
    quiet, clean = subprocess.DEVNULL, without_secrets(os.environ)
    GUARDS[folder] = subprocess.Popen(watch, env=clean, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    return server, process


def _wait_for(server: Server, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not _answers(server):
        if process.poll() is not None or time.monotonic() > deadline:
            _end(folder)
            log = folder / ".server-log"
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise FinetuneError(f"the local Prefect server did not start: {' '.join(last)}", f"see {log}")
        time.sleep(0.1)


def _settings(server: Server) -> dict[str, str]:
    return {
        "PREFECT_SERVER_API_AUTH_STRING": server.password or "",
        "PREFECT_API_AUTH_STRING": server.password or "",
        "PREFECT_API_URL": server.api,
        "PREFECT_UI_API_URL": server.api,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": server.url,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    }


def _answers(server: Server) -> bool:
    try:
        _version(server.api, server.password)
    except OSError:
        return False
    return True


def _version(api: str, password: str | None) -> bytes:
    """What a Prefect server says of its version. Raises OSError, and ValueError for what is no address."""
    request = urllib.request.Request(f"{api}/admin/version")  # noqa: S310  # loopback, or the user's own address
    if password:
        request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return bytes(answer.read())


def check(named: str) -> None:
    """Raise FinetuneError unless the server that `PREFECT_API_URL` names answers, as Prefect's API, and lets us in."""
    try:
        is_api = not _version(named, os.environ.get("PREFECT_API_AUTH_STRING")).lstrip().startswith(b"<")
    except urllib.error.HTTPError as error:
        if error.code == UNAUTHORIZED:
            _check_password()
        is_api = error.code != NOT_FOUND or "/api" in urllib.parse.urlsplit(named).path  # a cloud's has more behind it
    except (OSError, ValueError):
        what = f"the Prefect server that PREFECT_API_URL names does not answer ({shown(named)})"
        raise FinetuneError(what, "start it, or unset PREFECT_API_URL for a local one") from None
    if not is_api:
        what = f"{shown(named)}, which PREFECT_API_URL names, is no Prefect API"
        raise FinetuneError(what, "give the address that ends in /api")


def _check_password() -> None:
    """Raise FinetuneError where Prefect's own client is refused: it may know the password from elsewhere."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except PrefectHTTPStatusError as error:
        if error.response.status_code == UNAUTHORIZED:
            what = "the Prefect server refuses the password"
            raise FinetuneError(what, "set PREFECT_API_AUTH_STRING to its name:password") from None


def shown(address: str) -> str:
    """An address without a name and password in it."""
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def listens(address: str) -> bool:
    """Whether anything answers at a Prefect server's API, be it with a refusal."""
    try:
        urllib.request.urlopen(f"{address}/health", timeout=10).close()  # noqa: S310  # the user's own address
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _end(folder: Path) -> None:
    path = folder / ".server"
    try:
        pid = int(json.loads(path.read_text(encoding="utf-8"))["pid"])
        process = psutil.Process(pid)
        if "prefect" in " ".join(process.cmdline()):
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + SECONDS_TO_STOP
            while process.status() != psutil.STATUS_ZOMBIE:  # its parent may be waiting for us
                if time.monotonic() > deadline:
                    process.kill()
                time.sleep(0.02)
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        pass  # it has ended, or never was
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
