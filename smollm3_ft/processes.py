"""Child processes that touch a model or fork: started, listened to, told to stop, and their end understood.

A child frees the device when it ends, and its death is a failed step and not a dead worker. It gets no secret, and says
a failure with a known cause as its last line. Where several processes make one child, accelerate's launcher starts and
ends them.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import gc
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import IO, NamedTuple

import psutil

from smollm3_ft import devices, environment
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
    "stopped": Stopped,
    "training": TrainingError,
}
LAUNCHER = ("accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no")
NOISE = (" torch/distributed/elastic/", "torchao/_C", "torch/utils/_pytree.py")  # of libraries, of no use to users
LINES_KEPT = 500  # of output: the launcher's report has some for each process


def run(
    module: str,
    *arguments: str,
    on_line: Callable[[str], None],
    on_tick: Callable[[], None] = lambda: None,
    on_beat: Callable[[], None] = lambda: None,
    inherit: Sequence[int] = (),
    count: int = 1,
    online: bool = False,
) -> None:
    """Run `python -m module arguments` to its end. `on_line` gets its output, `on_tick` is called twice a second.

    `on_beat` is called by the listening thread whenever the child says that it goes on. What `on_tick` raises ends the
    child, ProcessDied at once. With a `count` it is that many processes under `accelerate launch`, which ends them all
    when one of them ends badly. Only one that is `online` may ask the Hub.

    Raises ProcessDied where a signal ended it, TrainingError or ConfigError with its own words where it failed. When
    this process is interrupted, the child is told to stop, and ended if it has not done so in 30 seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *_launcher(count), module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment.of_child(count, online),
        pass_fds=inherit,
        start_new_session=True,  # Ctrl-C reaches it through us, once
    )
    assert process.stdout is not None
    last: collections.deque[str] = collections.deque(maxlen=LINES_KEPT)
    context = contextvars.copy_context()  # the log belongs to the step that started the process
    listener = threading.Thread(target=context.run, args=(_listen, process.stdout, last, on_line, on_beat), daemon=True)
    listener.start()
    try:
        _wait(process, on_tick)
    except BaseException as error:
        _stop(process, 0 if isinstance(error, ProcessDied) else SECONDS_TO_STOP)
        raise
    finally:
        listener.join()
        process.stdout.close()
    on_tick()
    _check(module, process.returncode, list(last))


def child(work: Callable[[], None]) -> int:
    """The outermost border of a child process: its exit code, and the line that says a known failure."""
    gc.freeze()  # half a million objects of what was imported stay: no garbage is looked for among them
    gc.enable()
    try:
        work()
    except FinetuneError as error:
        kind = next((kind for kind, known in KINDS.items() if isinstance(error, known)), "training")
        words = {"kind": kind, "message": error.message, "remedy": error.remedy}
        sys.stdout.write(f"{MARK}{json.dumps(words)}\n")  # in one piece: other processes may write beside it
        sys.stdout.flush()
        return INTERRUPTED if isinstance(error, Stopped) else FAILED
    return 0


def beat() -> None:
    """Say to the parent that this child goes on."""
    try:
        sys.stdout.write(f"{BEAT}\n")  # in one piece: other processes may write beside it
        sys.stdout.flush()
    except BrokenPipeError:  # or it is gone, which `StopRequest` sees: what is said from now on is for nobody
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Above(NamedTuple):
    """Who started this child: the process itself, or one behind a launcher."""

    parent: int
    starter: int

    def is_there(self) -> bool:
        if os.getppid() != self.parent:
            return False
        if self.parent == self.starter:
            return True
        try:
            return psutil.Process(self.parent).ppid() == self.starter  # a launcher is between
        except psutil.NoSuchProcess:
            return False


def above() -> Above:
    """Who is above this process now; who started it may be gone already."""
    return Above(os.getppid(), int(os.environ.get(environment.PARENT, os.getppid())))


class StopRequest:
    """Whether this child should save and end: it was told to by a signal, or its parent or launcher is gone."""

    def __init__(self) -> None:
        self._above = above()
        self._told_at: float | None = None
        signal.signal(signal.SIGTERM, self._tell)
        signal.signal(signal.SIGINT, self._tell)

    def _tell(self, _signal: int, _frame: FrameType | None) -> None:
        self._told_at = time.monotonic()

    def seconds_left(self) -> float:
        """Until this child is ended: no end where nobody is there to do it."""
        return math.inf if self._told_at is None else self._told_at + SECONDS_TO_STOP - time.monotonic()

    def __bool__(self) -> bool:
        return self._told_at is not None or not self._above.is_there()


def end_with_parent() -> None:
    """End this process at once when its parent or launcher is gone; for work that is simply done again."""
    started, wake = above(), threading.Event()

    def watch() -> None:
        while started.is_there():
            wake.wait(1)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


def _launcher(count: int) -> list[str]:
    """What starts `count` processes: nothing for one. On one machine it chooses a port, so that runs do not meet."""
    if count == 1:
        return []
    machines = devices.machines()  # how they find each other, accelerate's configuration says
    port = ["--main_process_port", "0"] if machines == 1 else []
    return [*LAUNCHER, "--num_processes", str(count), "--num_machines", str(machines), *port, "-m"]


def _listen(
    output: IO[str], last: collections.deque[str], on_line: Callable[[str], None], on_beat: Callable[[], None]
) -> None:
    explained = False
    for line in output:
        text = line.rstrip()
        if text == BEAT:
            on_beat()
        elif text:
            last.append(text)
            explained = explained or text.startswith(MARK)
            # what follows an explanation is the launcher's report of it
            if not explained and not any(noise in text for noise in NOISE):
                on_line(text)


def _wait(process: subprocess.Popen[str], on_tick: Callable[[], None]) -> None:
    while True:
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            on_tick()
        else:
            return


def _stop(process: subprocess.Popen[str], seconds: float) -> None:
    """Tell a child to stop, and end it, and what a launcher started for it, where it has not done so by then."""
    below = _below(process.pid)  # a launcher's processes do not end with it
    process.terminate()
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for one in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _check(module: str, code: int, last: list[str]) -> None:
    what = module.rpartition(".")[2]
    if code == 0:
        return
    marked = next((json.loads(line.removeprefix(MARK)) for line in last if line.startswith(MARK)), None)
    if code == INTERRUPTED or (code > 0 and marked is not None and marked["kind"] == "stopped"):
        raise Stopped(f"the {what} process was told to stop, saved and ended", "run the same command to go on")
    if code > 0 and marked is not None:
        if marked["kind"] == "config":
            raise ConfigError(Problem(what, marked["message"], marked["remedy"]))
        raise KINDS[marked["kind"]](marked["message"], marked["remedy"])
    code = _first_end(last) or code
    if code < 0:
        name = signal.Signals(-code).name
        raise ProcessDied(f"the {what} process was ended by {name}", "run the same command to go on")
    said = (_own_lines(last) or [f"exit code {code}"])[-1]
    raise TrainingError(f"the {what} process failed: {said}", "see its output above")


def _own_lines(last: list[str]) -> list[str]:
    """The child's lines, without the launcher's report of its failure, which begins with a traceback of its own."""
    if _first_end(last) is None:
        return last
    return last[: max(number for number, line in enumerate(last) if line.startswith("Traceback "))]


def _first_end(last: Sequence[str]) -> int | None:
    """The exit code of the process that ended first, by the launcher's report; a signal's before others', as it came.

    The others fail a moment later, because one is missing. None where there is no such report.
    """
    ends = re.findall(r"^  time +: (.*)(?:\n  .*)*?\n  exitcode +: (-?\d+)", "\n".join(last), re.MULTILINE)
    own = [(at, int(code)) for at, code in ends if int(code) != -signal.SIGTERM]  # which the launcher sends the others
    return min(own, default=(None, None))[1]
