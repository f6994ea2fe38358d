"""A child process ends in one of a few ways, and each is told from the others."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from children import STOPPING, child
from conftest import Program

from smollm3_ft import processes
from smollm3_ft.errors import ConfigError, DataError, ProcessDied, Stalled, Stopped, TrainingError
from smollm3_ft.pulse import Pulse

pytestmark = pytest.mark.process


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


def test_garbage_is_looked_for_once_all_is_imported(program: Program) -> None:
    """A child that put that off while it imported does it in its work, and leaves alone what was imported."""
    shown = "import gc\nprint(gc.isenabled(), gc.get_freeze_count() > len(gc.get_objects()))"
    assert output(program(f"import gc\ngc.disable()\n{child(shown)}")) == ["True True"]


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
