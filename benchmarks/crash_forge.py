"""Trainings that are forked from a process that has imported everything, each with a fault:
`python -m crash_forge JOBS RESULTS SHIM`.

A job is a run's folder and its attempts, one after the other: each is the training process's own `main`, undisturbed or
with a fault. Forks are made before torch or the tokenizers start a thread.
"""

import ctypes
import gc
import json
import mmap
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crash_operations
from crash_trials import Attempt, Job, state

from smollm3_ft import environment, journal, processes

PAUSE = 0.002  # seconds between two looks at a child

_steps = mmap.mmap(-1, 8)  # the last step that a child has made, told by it


def main() -> None:
    """Every job of a file, and what became of it in another, a line each."""
    from transformers import conversion_mapping

    from smollm3_ft import training

    _count_steps()
    conversion_mapping.get_checkpoint_conversion_mapping("smollm3")  # as an import: 957 patterns are compiled once
    gc.collect()
    gc.freeze()  # what is imported is not looked through, and so not copied, in every child
    os.environ[environment.PARENT] = str(os.getpid())
    jobs = [Job.read(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    with Path(sys.argv[2]).open("w", encoding="utf-8") as results:
        for job in jobs:
            results.write(json.dumps(work(job, training.main)) + "\n")
            results.flush()
            shutil.rmtree(job.folder)


def work(job: Job, train: Callable[[], None]) -> dict[str, Any]:
    """One job: its attempts, and the state of the run behind them."""
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    for name in ("run.json", "plan.json"):
        shutil.copy(Path(job.template) / name, folder)
    ends = [_attempt(folder, one, train) for one in job.attempts]
    return {"name": job.name, "ends": ends, "state": state(folder)}


def _attempt(folder: Path, attempt: Attempt, train: Callable[[], None]) -> dict[str, Any]:
    _steps[:] = bytes(8)
    output, log = folder.with_name(f"{folder.name}.output"), folder.with_name(f"{folder.name}.operations")
    before, begun = crash_operations.sizes(folder), len(_begun(folder))
    for path in (output, log):
        path.touch()  # a kill may come before the child has
    began = time.monotonic()
    child = os.fork()
    if not child:
        _train(folder, attempt, train, output, log)
    code = _wait(child, attempt.at if attempt.fault == "kill at" else None)
    seconds = time.monotonic() - began
    operations, after = crash_operations.read(log), crash_operations.sizes(folder)
    explained = crash_operations.explain(operations, before, after, finished=code == 0)
    at_any_time = attempt.fault == "kill at"  # and so, maybe, between an operation and its line in the log
    if attempt.power:
        crash_operations.cut_power(folder, operations, before)
    begins = _begun(folder)[begun:]
    said = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    for path in (output, log):
        path.unlink()
    return {
        "code": code,
        "steps": int.from_bytes(_steps[:], "little"),
        "resumed_from": begins[-1] if begins else None,
        "seconds": seconds,
        "said": said[-1] if said else "",
        "explained": explained or at_any_time,
        "operations": operations if attempt.tell else operations[-1:],
    }


def _train(folder: Path, attempt: Attempt, train: Callable[[], None], output: Path, log: Path) -> None:
    """The child: the training process, but for its imports."""
    code = 1
    try:
        words = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number in (1, 2):
            os.dup2(words, number)
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        _arm(folder, written, attempt)
        sys.argv = ["training", str(folder / "plan.json")]
        code = processes.child(train)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001  # as the interpreter itself would say it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _arm(folder: Path, log: int, attempt: Attempt) -> None:
    """Have this process's operations counted, with the attempt's fault if it is the shim's."""
    kind = crash_operations.FAULTS.index(attempt.fault) if attempt.fault in crash_operations.FAULTS else 0
    error = ctypes.CDLL(sys.argv[3]).crash_arm(str(folder).encode(), log, kind, ctypes.c_long(int(attempt.at)))
    if error:
        raise OSError(error, "the kernel lets no system calls be trapped (seccomp)")


def _wait(child: int, seconds: float | None) -> int:
    """The exit code, or minus the signal. Killed after some seconds, if it is to be."""
    until = time.monotonic() + seconds if seconds is not None else None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            until = None
        time.sleep(PAUSE)


def _begun(folder: Path) -> list[int]:
    """The steps at which attempts began, as the journal says."""
    told = journal.read(folder / "metrics.jsonl")
    return [int(line.step or 0) for line in told if line.values.get("what") in ("started", "resumed")]


def _count_steps() -> None:
    """Have every training tell the step that it has made, as soon as the optimizer has."""
    import transformers

    handler = transformers.trainer_callback.CallbackHandler
    on_step_end = handler.on_step_end

    def counted(self: Any, args: Any, state: Any, control: Any) -> Any:
        _steps[:] = int(state.global_step).to_bytes(8, "little")
        return on_step_end(self, args, state, control)

    handler.on_step_end = counted


if __name__ == "__main__":
    code = processes.child(main)
    sys.stdout.flush()
    os._exit(code)
