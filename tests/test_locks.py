"""A living owner keeps others out and is named; a dead one holds nothing."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smollm3_ft import locks
from smollm3_ft.errors import RunBusy

OWNER = """
import subprocess, sys, threading
from pathlib import Path
from smollm3_ft import locks
with locks.hold(Path(sys.argv[1]), "demo") as descriptor:
    if sys.argv[2] == "with a child":
        subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=(descriptor,), stderr=subprocess.DEVNULL)
    print("held", flush=True)
    threading.Event().wait()
"""
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that holds the lock `demo`, alone or with a child that ends when its input does."""
    started = []

    def work(how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OWNER, str(tmp_path), how]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield work
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def test_a_living_owner_is_named(tmp_path: Path, start: Start) -> None:
    """Who comes second is told at once which process works on the run."""
    owner = start("alone")
    with pytest.raises(RunBusy, match=f"demo is being worked on by process {owner.pid}"), locks.hold(tmp_path, "demo"):
        pass
    assert locks.owner(tmp_path, "demo") == f"process {owner.pid}"
    assert locks.is_held_by_the_living(tmp_path, "demo")


def test_a_killed_owner_holds_nothing(tmp_path: Path, start: Start) -> None:
    """A lock whose owner was killed is free."""
    owner = start("alone")
    owner.kill()
    owner.wait()
    assert locks.owner(tmp_path, "demo") is None
    with locks.hold(tmp_path, "demo"):
        assert locks.is_held_by_the_living(tmp_path, "demo")


def test_a_child_of_a_dead_owner_still_holds(tmp_path: Path, start: Start) -> None:
    """The child that inherited the lock holds it until it ends, but is not taken for a living owner."""
    owner = start("with a child")
    owner.kill()
    owner.wait()
    assert locks.owner(tmp_path, "demo") == f"process {owner.pid}"
    assert not locks.is_held_by_the_living(tmp_path, "demo")
    assert owner.stdin is not None
    owner.stdin.close()  # the child's input too: it ends
    with locks.hold(tmp_path, "demo"):
        assert locks.is_held_by_the_living(tmp_path, "demo")


def test_a_child_that_does_not_end_is_named(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child of a dead owner is waited for only so long."""
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    owner = start("with a child")
    owner.kill()
    owner.wait()
    with pytest.raises(RunBusy, match=f"process {owner.pid}"), locks.hold(tmp_path, "demo"):
        pass


def test_waiting_for_a_living_owner(tmp_path: Path, start: Start) -> None:
    """Who is told to wait gets the lock when its owner is done, and not before."""
    owner = start("alone")
    got = threading.Event()

    def wait() -> None:
        with locks.hold(tmp_path, "demo", wait=True):
            got.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not got.wait(0.2)
    owner.kill()
    waiting.join(timeout=60)
    assert got.is_set()


def test_a_lock_is_free_afterwards(tmp_path: Path) -> None:
    """Leaving the block frees the lock, also by an error."""
    with pytest.raises(ZeroDivisionError), locks.hold(tmp_path, "demo"):
        raise ZeroDivisionError
    assert locks.owner(tmp_path, "demo") is None


def test_names_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Two names are two locks."""
    with locks.hold(tmp_path, "one"), locks.hold(tmp_path, "two"):
        assert locks.owner(tmp_path, "one") == locks.owner(tmp_path, "two")


def test_nobody_owns_what_was_never_held(tmp_path: Path) -> None:
    """Asking for an owner makes no lock."""
    assert locks.owner(tmp_path, "demo") is None
    assert not locks.is_held_by_the_living(tmp_path, "demo")
    assert list(tmp_path.iterdir()) == []


def test_an_owner_on_another_machine_may_be_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees from here whether it lives: who is told to waits, and others are refused at once."""
    with locks.hold(tmp_path, "demo") as held:
        os.ftruncate(held, 0)
        os.pwrite(held, b'{"pid": 1, "host": "elsewhere"}', 0)
        with pytest.raises(RunBusy, match="process 1 on elsewhere"), locks.hold(tmp_path, "demo"):
            pass
        monkeypatch.setattr("time.sleep", lambda _seconds: fcntl.flock(held, fcntl.LOCK_UN))
        with locks.hold(tmp_path, "demo", far=60):
            assert locks.is_held_by_the_living(tmp_path, "demo")


def test_an_owner_that_has_not_signed_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between taking a lock and writing its name an owner has no name: a moment later it is named."""
    (tmp_path / ".locks").mkdir()
    with (tmp_path / ".locks" / "demo").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def sign(_seconds: float) -> None:
            os.pwrite(file.fileno(), json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

        monkeypatch.setattr(locks.time, "sleep", sign)
        with pytest.raises(RunBusy, match=f"process {os.getpid()}"), locks.hold(tmp_path, "demo"):
            pass
