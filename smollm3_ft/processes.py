"""Child processes that touch a model or fork: started, listened to, told to stop, and their end understood.

A child frees the device when it ends, and its death is a failed step and not a dead worker. It gets no secret, and says
a failure with a known cause as its last line.
"""

from __future__ import annotations

import collections
import contextvars
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import IO

from smollm3_ft.errors import (
    ConfigError,
    DataError,
    FinetuneError,
    OutOfMemory,
    Problem,
    ProcessDied,
    Stopped,
    TrainingError,
)

INTERRUPTED = 75  # the exit code of a child that was told to stop, saved, and ended
FAILED = 70
MARK = "smollm3-ft failed: "
BEAT = "smollm3-ft goes on"
SECONDS_TO_STOP = 30
KINDS: dict[str, type[FinetuneError]] = {  # the narrower before the wider
    "config": ConfigError,
    "data": DataError,
    "memory": OutOfMemory,
    "training": TrainingError,
}
PARENT = "SMOLLM3_FT_PARENT"  # the parent's process id: a child looks for it when it has imported its libraries
SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSWORD", "AUTH_STRING")


def run(
    module: str,
    *arguments: str,
    on_line: Callable[[str], None],
    on_tick: Callable[[], None] = lambda: None,
    on_beat: Callable[[], None] = lambda: None,
    inherit: Sequence[int] = (),
) -> None:
    """Run `python -m module arguments` to its end. `on_line` gets its output, `on_tick` is called twice a second.

    `on_beat` is called by the listening thread whenever the child says that it goes on. What `on_tick` raises ends the
    child, ProcessDied at once.

    Raises ProcessDied where a signal ended it, TrainingError or ConfigError with its own words where it failed. When
    this process is interrupted, the child is told to stop, and ended if it has not done so in 30 seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(),
        pass_fds=inherit,
        start_new_session=True,  # Ctrl-C reaches it through us, once
    )
    assert process.stdout is not None
    last: collections.deque[str] = collections.deque(maxlen=30)
    context = contextvars.copy_context()  # the log belongs to the step that started the process
    listener = threading.Thread(target=context.run, args=(_listen, process.stdout, last, on_line, on_beat), daemon=True)
    listener.start()
    try:
        _wait(process, on_tick)
    except ProcessDied:
        process.kill()
        process.wait()
        raise
    except BaseException:
        _stop(process)
        raise
    finally:
        listener.join()
        process.stdout.close()
    on_tick()
    _check(module, process.returncode, list(last))


def child(work: Callable[[], None]) -> int:
    """The outermost border of a child process: its exit code, and the line that says a known failure."""
    try:
        work()
    except FinetuneError as error:
        kind = next((kind for kind, known in KINDS.items() if isinstance(error, known)), "training")
        words = {"kind": kind, "message": error.message, "remedy": error.remedy}
        print(MARK + json.dumps(words), flush=True)  # noqa: T201  # the parent reads it
        return FAILED
    return 0


def beat() -> None:
    """Say to the parent that this child goes on."""
    print(BEAT, flush=True)  # noqa: T201  # the parent listens


class StopRequest:
    """Whether this child should save and end: it was told to by a signal, or its parent is gone."""

    def __init__(self) -> None:
        self._parent = _parent()
        self._told = False
        signal.signal(signal.SIGTERM, self._tell)
        signal.signal(signal.SIGINT, self._tell)

    def _tell(self, _signal: int, _frame: FrameType | None) -> None:
        self._told = True

    def __bool__(self) -> bool:
        return self._told or os.getppid() != self._parent


def end_with_parent() -> None:
    """End this process at once when its parent is gone; for work that is simply done again."""
    parent = _parent()
    wake = threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            wake.wait(1)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


def _parent() -> int:
    """The process that started this one: it may be gone before this one asks."""
    return int(os.environ.get(PARENT, os.getppid()))


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a child that needs no token, key or password."""
    return {name: value for name, value in environment.items() if not any(word in name for word in SECRET_WORDS)}


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in without_secrets(os.environ).items() if not name.startswith("PREFECT_")}
    # A thread that spins while it waits halves a machine's work for everybody: with another process on one of two
    # cores, training ran at a twentieth of its speed.
    kept.setdefault("OMP_WAIT_POLICY", "passive")
    kept.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for large pages: a tensor's first touch is a fault a page
    if "PYTORCH_CUDA_ALLOC_CONF" not in kept:  # its older name
        # batches are of many sizes: memory in fixed segments would be left in pieces that fit none of them
        kept.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    kept.setdefault("PYTHONWARNINGS", "ignore")  # libraries' deprecations are not the user's business
    kept[PARENT] = str(os.getpid())
    return {**kept, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}


def _listen(
    output: IO[str], last: collections.deque[str], on_line: Callable[[str], None], on_beat: Callable[[], None]
) -> None:
    for line in output:
        text = line.rstrip()
        if text == BEAT:
            on_beat()
        elif text:
            last.append(text)
            if not text.startswith(MARK):
                on_line(text)


def _wait(process: subprocess.Popen[str], on_tick: Callable[[], None]) -> None:
    while True:
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            on_tick()
        else:
            return


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _check(module: str, code: int, last: list[str]) -> None:
    what = module.rpartition(".")[2]
    if code == 0:
        return
    if code == INTERRUPTED:
        raise Stopped(f"the {what} process was told to stop, saved and ended", "run the same command to go on")
    if code < 0:
        name = signal.Signals(-code).name
        raise ProcessDied(f"the {what} process was ended by {name}", "run the same command to go on")
    if last and last[-1].startswith(MARK):
        words = json.loads(last[-1].removeprefix(MARK))
        if words["kind"] == "config":
            raise ConfigError(Problem(what, words["message"], words["remedy"]))
        raise KINDS[words["kind"]](words["message"], words["remedy"])
    raise TrainingError(
        f"the {what} process failed: {last[-1] if last else f'exit code {code}'}", "see its output above"
    )
