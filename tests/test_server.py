"""The local Prefect server: shared by the commands that need it, closed to everybody else, ended by the last."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import psutil
import pytest

from flows import server
from smollm3_ft.errors import FinetuneError

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
USER = """
import sys
from pathlib import Path
from flows import server
with server.running(Path(sys.argv[1])) as here:
    print(here.url, flush=True)
    sys.stdin.read()
"""


class User(NamedTuple):
    """A process that uses the server, and the address it was told."""

    address: str
    process: subprocess.Popen[str]


@contextmanager
def user(runs_dir: Path, home: Path) -> Iterator[User]:
    """Start a process that uses the server, and end it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(runs_dir)],
        cwd=ROOT,
        env={**kept, "PREFECT_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield User(process.stdout.readline().strip(), process)
        process.stdin.close()
        process.wait(60)


def status(address: str) -> int | None:
    """The answer's code, or None where nobody listens."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return None


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What two users saw, before and after the first and the last of them left."""
    folder = tmp_path_factory.mktemp("server")
    runs_dir, home = folder / "runs", folder / "home"
    seen: dict[str, object] = {}
    with ExitStack() as last:
        with ExitStack() as first:
            one = first.enter_context(user(runs_dir, home)).address
            two = last.enter_context(user(runs_dir, home)).address
            seen["addresses"] = (one, two)
            seen["without password"] = status(f"{one}/api/admin/version")
            seen["mode"] = stat.S_IMODE((runs_dir / ".locks" / ".server").stat().st_mode)
        seen["after the first"] = status(f"{one}/api/health")
    seen["after the last"] = status(f"{one}/api/health")
    seen["password file"] = (runs_dir / ".locks" / ".server").exists()
    return seen


def test_two_commands_share_one_server(told: dict[str, object]) -> None:
    """Both are told the same address, on loopback."""
    one, two = told["addresses"]  # type: ignore[misc]  # a pair
    assert one == two
    assert one.startswith("http://127.0.0.1:")


def test_the_server_answers_nobody_without_the_password(told: dict[str, object]) -> None:
    """The API refuses a caller without it, and its file is the owner's alone."""
    assert told["without password"] == 401
    assert told["mode"] == 0o600


def test_the_last_command_ends_the_server(told: dict[str, object]) -> None:
    """It outlives the first command, and neither it nor its password outlives the last."""
    assert told["after the first"] == 200
    assert told["after the last"] is None
    assert told["password file"] is False


def test_the_server_does_not_outlive_a_killed_command(tmp_path: Path) -> None:
    """A command that could not leave is missed all the same."""
    with user(tmp_path / "runs", tmp_path / "home") as (address, command):
        server = psutil.Process(json.loads((tmp_path / "runs" / ".locks" / ".server").read_text())["pid"])
        command.kill()
        server.wait(60)
    assert status(f"{address}/api/health") is None


def test_whoever_ends_the_server_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that watched over it ends with it, and is waited for."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, "_wait_for", lambda *_: None)
    before = set(psutil.Process().children())
    with server.running(tmp_path):
        assert len(set(psutil.Process().children()) - before) == 2
    assert set(psutil.Process().children()) <= before


def test_the_guard_does_not_wait_for_an_ended_server_to_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is quicker than the command, which is the server's parent and waits for the guard."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(server, "_wait_for", lambda *_: None)
    lock = fcntl.flock

    def slowly(file: IO[str], what: int) -> None:
        lock(file, what)
        if what == fcntl.LOCK_UN:
            server.GUARDS[tmp_path / ".locks"].wait(server.SECONDS_TO_STOP / 2)

    with server.running(tmp_path):
        monkeypatch.setattr(server.fcntl, "flock", slowly)
    assert not server.GUARDS
    assert not server.STARTED


def test_a_server_that_does_not_start_says_where_to_look(tmp_path: Path) -> None:
    """Its last line, and the file that has the others."""
    (tmp_path / ".server-log").write_text("one\nno room\n")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(FinetuneError, match=f"did not start: no room; see {tmp_path / '.server-log'}"):
        server._wait_for(server.Server("http://127.0.0.1:9", None), ended, tmp_path)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    """An address may hold one."""
    with pytest.raises(FinetuneError, match=r"names does not answer \(http://127.0.0.1:9/api\)"):
        server.check("http://me:secret@127.0.0.1:9/api")
