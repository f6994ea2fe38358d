"""A child process ends in one of a few ways, and each is told from the others."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from smollm3_ft import processes
from smollm3_ft.errors import ConfigError, DataError, ProcessDied, Stalled, Stopped, TrainingError
from smollm3_ft.pulse import Pulse

pytestmark = pytest.mark.process

Program = Callable[[str], str]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Makes a module of some lines. Returns its name, under which children find it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(code: str) -> str:
        (tmp_path / "program.py").write_text(textwrap.dedent(code))
        return "program"

    return make


def output(module: str, *arguments: str) -> list[str]:
    """What a child that succeeds prints."""
    lines: list[str] = []
    processes.run(module, *arguments, on_line=lines.append)
    return lines


def test_output_comes_line_by_line(program: Program) -> None:
    """Both outputs are delivered, without line ends and empty lines, whatever their bytes."""
    module = program("""
        import sys
        print("one", sys.argv[1:])
        print()
        print("two", file=sys.stderr)
        sys.stdout.buffer.write(b"\\xff three\\n")
    """)
    assert sorted(output(module, "a b", "c")) == ["one ['a b', 'c']", "two", "\ufffd three"]


def test_lines_come_while_the_child_runs(program: Program, tmp_path: Path) -> None:
    """A line is delivered when it is printed, not at the end."""
    module = program("""
        import pathlib, sys, threading
        print("ready")
        for _ in range(500):
            if pathlib.Path(sys.argv[1]).exists():
                sys.exit()
            threading.Event().wait(0.02)
        sys.exit("nobody heard")
    """)
    go_on = tmp_path / "go on"
    processes.run(module, str(go_on), on_line=lambda _: go_on.touch())


def test_beats_are_no_lines(program: Program) -> None:
    """That a child goes on is heard, and is no part of its output, nor of its last words."""
    module = program("""
        from smollm3_ft import processes
        print("one")
        for _ in range(40):
            processes.beat()
        raise SystemExit(3)
    """)
    lines: list[str] = []
    beats: list[int] = []
    with pytest.raises(TrainingError, match="the program process failed: one"):
        processes.run(module, on_line=lines.append, on_beat=lambda: beats.append(1))
    assert (lines, len(beats)) == (["one"], 40)


def test_a_child_that_stands_still_is_ended(program: Program) -> None:
    """A child that neither goes on nor listens to signals is ended at once, as one that may be tried again."""
    module = program("""
        import os, signal
        from smollm3_ft import processes
        print(os.getpid())
        processes.beat()
        os.kill(os.getpid(), signal.SIGSTOP)
    """)
    lines: list[str] = []
    pulse = Pulse(at_least=0.2)
    with pytest.raises(Stalled, match="training stalled"):
        processes.run(module, on_line=lines.append, on_tick=pulse.check, on_beat=pulse.beat)
    assert not psutil.pid_exists(int(lines[0]))


def test_ticks_come_while_the_child_runs(program: Program, tmp_path: Path) -> None:
    """on_tick is called beside a child that says nothing."""
    module = program("""
        import pathlib, sys, threading
        for _ in range(500):
            if pathlib.Path(sys.argv[1]).exists():
                sys.exit()
            threading.Event().wait(0.02)
        sys.exit("nobody ticked")
    """)
    go_on = tmp_path / "go on"
    processes.run(module, str(go_on), on_line=pytest.fail, on_tick=go_on.touch)


CHILD = "import os, signal, sys, threading\nfrom smollm3_ft import errors, processes\nfrom smollm3_ft.errors import *\n"


def child(body: str) -> str:
    """A program whose work is `body`, behind the border that the real ones have."""
    return f"{CHILD}def work():\n{textwrap.indent(textwrap.dedent(body), '    ')}\nsys.exit(processes.child(work))"


def test_a_wrong_configuration(program: Program) -> None:
    """A child's ConfigError is one here, with its words."""
    module = program(child('raise ConfigError(Problem("train.epochs", "is wrong", "mend it"))'))
    with pytest.raises(ConfigError, match=r"program: train\.epochs: is wrong; mend it"):
        output(module)


def test_a_known_failure(program: Program) -> None:
    """A child's failure with a known cause keeps cause and remedy, and its line is not shown as output."""
    module = program(child('print("before")\nraise DataError("it is\\nbroken", "mend it")'))
    lines: list[str] = []
    with pytest.raises(DataError) as caught:
        processes.run(module, on_line=lines.append)
    assert (caught.value.message, caught.value.remedy) == ("it is\nbroken", "mend it")
    assert lines == ["before"]


def test_a_bug(program: Program) -> None:
    """Any other failure is told with the last line of its traceback, all of which is shown."""
    module = program(child("1 / 0"))
    lines: list[str] = []
    with pytest.raises(TrainingError, match="the program process failed: ZeroDivisionError: division by zero"):
        processes.run(module, on_line=lines.append)
    assert lines[0].startswith("Traceback")


def test_a_failure_without_words(program: Program) -> None:
    """A child that fails and says nothing is told with its exit code."""
    with pytest.raises(TrainingError, match="the program process failed: exit code 3"):
        output(program("import sys; sys.exit(3)"))


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_death_by_signal(program: Program, name: str) -> None:
    """A child that a signal ended may be tried again, and the signal is named."""
    module = program(f"import os, signal; os.kill(os.getpid(), signal.{name})")
    with pytest.raises(ProcessDied, match=f"the program process was ended by {name}"):
        output(module)


STOPPING = """
    stop = processes.StopRequest()
    print(os.getpid())
    for _ in range(1000):
        if stop:
            open(sys.argv[1], "w").close()
            sys.exit(processes.INTERRUPTED)
        threading.Event().wait(0.02)
"""


def test_a_child_that_somebody_stops(program: Program, tmp_path: Path) -> None:
    """A child told to stop by somebody else saves, and that is no failure to be tried again."""
    module, saved = program(child(STOPPING)), tmp_path / "saved"
    with pytest.raises(Stopped, match="told to stop, saved and ended"):
        processes.run(module, str(saved), on_line=lambda pid: os.kill(int(pid), signal.SIGTERM))
    assert saved.exists()


def test_an_interruption_stops_the_child(program: Program, tmp_path: Path) -> None:
    """When we are interrupted the child is told to stop, saves, and is gone when the interruption goes on."""
    module, saved, lines = program(child(STOPPING)), tmp_path / "saved", list[str]()

    def interrupt() -> None:
        if lines:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.run(module, str(saved), on_line=lines.append, on_tick=interrupt)
    assert saved.exists()
    assert not psutil.pid_exists(int(lines[0]))


def test_a_child_that_will_not_stop_is_ended(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that does not end in time when it is told to is killed."""
    monkeypatch.setattr(processes, "SECONDS_TO_STOP", 0.2)
    module = program("""
        import os, signal, threading
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid())
        threading.Event().wait(60)
    """)
    lines: list[str] = []

    def interrupt() -> None:
        if lines:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        processes.run(module, on_line=lines.append, on_tick=interrupt)
    assert not psutil.pid_exists(int(lines[0]))


ENDING = """
    processes.end_with_parent()
    print(os.getpid())
    threading.Event().wait(60)
"""
LATE = """
    print(os.getpid())
    threading.Event().wait(0.5)
    processes.end_with_parent()
    threading.Event().wait(60)
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
        orphan.wait(timeout=10)
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
        launched.wait(timeout=10)
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


def test_a_child_gets_no_secret(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child does not need is not in its environment: tokens, keys, passwords, and Prefect's settings."""
    secret = (
        "HF_TOKEN",
        "HF_READ_TOKEN",
        "TRACKIO_WRITE_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "WANDB_API_KEY",
    )
    for name in (*secret, "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.setenv(name, "hidden")
    module = program("import json, os; print(json.dumps(dict(os.environ)))")
    (line,) = output(module)
    assert "hidden" not in line
    assert not [name for name in json.loads(line) if "TOKEN" in name or name.startswith("PREFECT_")]


def test_a_child_gets_the_rest(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has the environment otherwise, stays off the network, lets waiting threads rest, takes large pages."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    (line,) = output(program("import json, os; print(json.dumps(dict(os.environ)))"))
    wanted = {"CUDA_VISIBLE_DEVICES": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
    assert (wanted | {"THP_MEM_ALLOC_ENABLE": "1"}).items() <= json.loads(line).items()


def test_a_value_of_one_s_own_wins(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says of threads and pages is left as it is."""
    wanted = {"OMP_WAIT_POLICY": "active", "THP_MEM_ALLOC_ENABLE": "0"}
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    (line,) = output(program("import json, os; print(json.dumps(dict(os.environ)))"))
    assert wanted.items() <= json.loads(line).items()


def test_a_child_may_inherit_a_lock(program: Program, tmp_path: Path) -> None:
    """Only the descriptors that are named reach the child."""
    named, other = ((tmp_path / name).open("w") for name in ("named", "other"))
    with named, other:
        os.set_inheritable(other.fileno(), True)
        module = program("""
            import psutil
            print([file.path for file in psutil.Process().open_files()])
        """)
        lines: list[str] = []
        processes.run(module, on_line=lines.append, inherit=(named.fileno(),))
    assert str(tmp_path / "named") in lines[0]
    assert str(tmp_path / "other") not in lines[0]


def test_no_thread_is_left(program: Program) -> None:
    """The thread that listens ends with the child."""
    before = threading.active_count()
    output(program("print(1)"))
    assert threading.active_count() == before


def test_a_beat_that_nobody_hears_ends_nothing() -> None:
    """A child whose parent was killed goes on to where it saves: what it says then is lost, and no failure."""
    code = "from smollm3_ft import processes; processes.beat(); processes.beat(); print('saved')"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
