"""File operations as the shim counts them: how it is built, what it tells, and what would be left without power."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parent / "crash_shim.c"
KILLS = ("kill before", "kill half", "kill after")
FAULTS = ("none", *KILLS, "full", "full half")  # as the shim numbers them
NEEDS_ROOM = ("write", "create", "mkdir", "rename", "link", "fsync", "allocate")  # a full disk may refuse them


class Operation(NamedTuple):
    """`result`: bytes written or cut to, 0, or negative where it failed. Paths are relative to the run's folder."""

    number: int
    kind: str
    result: int
    path: str
    other: str = ""


def build(folder: Path, compiler: str = "cc") -> Path:
    """The shim, built into a folder. Raises OSError where there is no compiler, RuntimeError where it refuses."""
    made = folder / "crash_shim.so"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o", str(made), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr}")
    return made


TRIED = """
import ctypes, os, sys
shim, folder, log = sys.argv[1:]
error = ctypes.CDLL(shim).crash_arm(folder.encode(), os.open(log, os.O_WRONLY | os.O_CREAT), 0, ctypes.c_long(0))
open(folder + "/file", "w").close()
sys.exit(os.strerror(error) if error else 0)
"""


def refusal(shim: Path, folder: Path) -> str:
    """Why system calls are not trapped here; empty where they are. Tried by a process of its own in an empty folder."""
    log = folder.with_name(f"{folder.name}.operations")
    command = [sys.executable, "-c", TRIED, str(shim), str(folder), str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"the kernel lets a process trap no system calls (seccomp): {done.stderr.strip() or done.returncode}"
    found = [one.kind for one in read(log)]
    return "" if found[:1] == ["create"] else f"of a file that was made, only {found} was seen"


def read(log: Path) -> list[Operation]:
    """What the shim wrote down; nothing where it was not begun."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    parts = (line.split("\t") for line in lines)
    return [Operation(int(number), kind, int(result), path, other) for number, kind, result, path, other in parts]


class File:
    """A file as the operations make it: its size, where it is written next, and how much of it was flushed."""

    def __init__(self, size: int) -> None:
        self.size = self.at = self.flushed = size

    def cut(self, size: int) -> None:
        self.size, self.at, self.flushed = size, min(self.at, size), min(self.flushed, size)

    def write(self, count: int) -> None:
        self.at += count
        self.size = max(self.size, self.at)


def explained(operations: Iterable[Operation], before: dict[str, int]) -> dict[str, File]:
    """The files that the operations leave, by path. `before`: those that were there, with their sizes."""
    there = {path: File(size) for path, size in before.items()}
    for one in operations:
        if one.result < 0:
            continue
        if one.kind in ("create", "empty"):
            there[one.path] = File(0)
        elif one.kind == "unlink":
            there.pop(one.path, None)
        elif one.kind == "rename":
            moved = {path: file for path, file in there.items() if f"{path}/".startswith(f"{one.path}/")}
            for path in moved:
                del there[path]
            there.update({one.other + path.removeprefix(one.path): file for path, file in moved.items()})
        elif one.path in there:  # and no folder, and no file without a name
            if one.kind == "write":
                there[one.path].write(one.result)
            elif one.kind == "truncate":
                there[one.path].cut(one.result)
            elif one.kind == "fsync":
                there[one.path].flushed = there[one.path].size
    return there


def explain(operations: Iterable[Operation], before: dict[str, int], after: dict[str, int], finished: bool) -> bool:
    """Whether the operations make the files that are there, each in its size, and written to its end when `finished`.

    A file may get its size first and its content then, so that it has its size before it is whole.
    """
    files = explained(operations, before)
    whole = not finished or all(file.at == file.size for file in files.values())
    return whole and {path: file.size for path, file in files.items()} == after


def sizes(folder: Path) -> dict[str, int]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def cut_power(folder: Path, operations: list[Operation], before: dict[str, int]) -> None:
    """Take from the files what was written and not flushed: the worst that a power cut leaves of them."""
    for path, file in explained(operations, before).items():
        if file.flushed < file.size:
            os.truncate(folder / path, file.flushed)
