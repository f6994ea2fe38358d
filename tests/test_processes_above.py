"""A child ends with who is above it, and what a launcher tells of its end is understood."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from children import CHILD, STOPPING, child
from conftest import Program

from smollm3_ft import processes
from smollm3_ft.errors import DataError, ProcessDied, TrainingError

pytestmark = pytest.mark.process


ENDING = """
    processes.end_with_parent()
    print(os.getpid())
    threading.Event().wait(600)
"""
LATE = """
    print(os.getpid())
    threading.Event().wait(0.5)
    processes.end_with_parent()
    threading.Event().wait(600)
"""
PARENT = """
import sys
from smollm3_ft import processes
processes.run(*sys.argv[1:], on_line=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("body", [ENDING, LATE, STOPPING], ids=["at once", "late", "saving"])
def test_a_child_ends_with_its_parent(program: Program, tmp_path: Path, body: str) -> None:
    """A child whose parent is killed ends by itself, also when that happens before it looks for the first time."""
    command = [sys.executable, "-c", PARENT, program(child(body)), str(tmp_path / "saved")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        orphan.wait(timeout=60)
    assert (tmp_path / "saved").exists() is (body == STOPPING)


LAUNCHER = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-m", *sys.argv[1:]]).wait())
"""


@pytest.mark.parametrize("killed", ["parent", "launcher"])
def test_a_launched_child_saves_when_one_above_is_gone(program: Program, tmp_path: Path, killed: str) -> None:
    """A child behind a launcher saves and ends by itself when the launcher or its own parent is killed."""
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    command = [sys.executable, "-c", PARENT, "launcher", program(child(STOPPING)), str(tmp_path / "saved")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        launched = psutil.Process(int(parent.stdout.readline()))
        (parent if killed == "parent" else launched.parent()).kill()  # type: ignore[union-attr]  # it has one
        launched.wait(timeout=60)
    assert (tmp_path / "saved").exists()


REPORT = """
Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
Failures:
[1]:
  time      : 2026-11-24_12:46:47
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : {0} (pid: 7335)
  error_file: <N/A>
Root Cause (first observed failure):
[0]:
  time      : 2026-11-24_12:46:{1}
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {2} (pid: 7336)
"""


@pytest.mark.parametrize(
    ("ends", "error", "said"),
    [
        ((-15, 47, -9), ProcessDied, "ended by SIGKILL"),  # the launcher ends the others with SIGTERM
        ((1, 47, -9), ProcessDied, "ended by SIGKILL"),  # the other one fails in the same second
        ((-9, 17, 1), TrainingError, "failed: ValueError: broken"),  # the launcher kills one that hangs later
    ],
)
def test_the_launcher_says_who_ended_first(
    program: Program, ends: tuple[int, int, int], error: type[Exception], said: str
) -> None:
    """Of several processes the one that ended first says why: it was ended by a signal, or it failed."""
    module = program(f"import sys; print('ValueError: broken'); sys.exit({REPORT.format(*ends)!r})")
    with pytest.raises(error, match=said):
        processes.run(module, on_line=print)


def test_the_launcher_s_report_of_what_is_known_is_not_shown(program: Program) -> None:
    """A failure with a known cause is told in its own words, whatever the launcher prints behind them."""
    module = program(
        f"{CHILD}def work():\n    raise DataError('it is broken')\n"
        f"processes.child(work)\nprint({REPORT!r})\nsys.exit(1)"
    )
    lines: list[str] = []
    with pytest.raises(DataError, match="it is broken"):
        processes.run(module, on_line=lines.append)
    assert lines == []
