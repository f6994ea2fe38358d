"""The benchmarks run on small sizes and say what the contract wants; what they measure is not judged here."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def measured(name: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, f"benchmarks/{name}.py", "--json", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]  # an object, as printed


def test_training_ratios_are_between_rows_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ratio is taken between rows of another precision or mask."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    training = importlib.import_module("training")
    alike = {"precision": "float32", "mask": "all", "device": "a CPU", "threads": 1}
    rows = [
        {**alike, "contender": "ours_all", "tokens_per_cpu_s": 30.0},
        {**alike, "contender": "fixed_width", "tokens_per_cpu_s": 10.0},
        {**alike, "contender": "trl_packing", "tokens_per_cpu_s": 10.0, "mask": "assistant"},
    ]
    assert training.ratio(rows, "ours_all", "fixed_width") == 3.0
    with pytest.raises(AssertionError):
        training.ratio(rows, "ours_all", "trl_packing")


def test_training_tells_of_every_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a row in the table, or gives the losses that this project's are compared with."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    training, contenders = (importlib.import_module(name) for name in ("training", "training_contenders"))
    assert set(contenders.CONTENDERS) == {*training.NAMES, *training.LEVERS, "same_batches"}
    assert {full for _, full in training.LEVERS.values()} <= set(training.NAMES)


@pytest.mark.process
def test_gpu_runs_small_without_one() -> None:
    """Without a GPU the same code trains at small sizes, says so, predicts, and judges no goal."""
    found = measured("gpu", "--steps", "3", "--only", "full_ours_packed", "lora_trl_packed_kept")
    assert found["device"].startswith("no CUDA device, sizes reduced: ")
    assert {"torch", "trl", "flash-attn", "liger-kernel"} <= set(found["versions"])
    ours, trl = found["rows"]
    assert [row["contender"] for row in (ours, trl)] == ["full_ours_packed", "lora_trl_packed_kept"]
    for row in (ours, trl):
        assert (row["outcome"], row["mask"], row["precision"]) == ("measured", "all", "bf16")
        assert row["tokens_per_second"] > 0
        assert row["mfu"] is None
    assert ours["predicted_gib"] > 0
    assert trl["predicted_gib"] is None
    names = "mfu_full tokens_per_second_lora vs_trl_best memory_error time_error"
    assert list(found["goals"]) == names.split()
    assert all((goal["value"], goal["met"]) == (None, False) for goal in found["goals"].values())


def test_gpu_goals_are_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's better setting counts, the worse of full and LoRA, and a setting that ran out of memory does not."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = importlib.import_module("gpu")

    def row(name: str, speed: float, **given: Any) -> dict[str, Any]:
        alike = {"precision": "bf16", "mask": "all", "max_length": 4096, "device": "a GPU", "outcome": "measured"}
        memory = {"memory_gib": 50.0, "predicted_gib": None, "step_s": 1.0, "predicted_step_s": None, "mfu": 0.4}
        return {**alike, **memory, "contender": name, "tokens_per_second": speed, **given}

    rows = [
        row("full_ours_packed", 24_000.0, predicted_gib=55.0, predicted_step_s=0.9),
        row("full_trl_packed", 16_000.0),
        row("full_trl_packed_kept", 0.0, outcome="out of memory"),
        row("lora_ours_packed", 32_000.0, predicted_gib=49.0, predicted_step_s=1.0),
        row("lora_trl_packed", 16_000.0),
        row("lora_trl_packed_kept", 20_000.0),
    ]
    values = gpu.values_of(rows)
    assert (values["mfu_full"], values["tokens_per_second_lora"], values["vs_trl_best"]) == (0.4, 32_000.0, 1.5)
    assert (values["memory_error"], values["time_error"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert gpu.values_of(rows[:3])["vs_trl_best"] is None


@pytest.mark.parametrize(
    ("row", "change", "missed"),
    [
        ("killed", {"as_meant": 299}, "kill_points"),
        ("killed", {"bit_identical": 299}, "bit_identical"),
        ("power", {"bit_identical": 9}, "bit_identical"),
        ("killed", {"steps_again": 3}, "steps_repeated_over_save_steps"),
        ("full", {"disk_named": 9}, "disk_full_named"),
        ("full", {"bit_identical": 9}, "disk_full_resumed"),
        ("full", {}, None),
    ],
)
def test_one_trial_that_ends_otherwise_misses_a_goal(
    monkeypatch: pytest.MonkeyPatch, row: str, change: dict[str, int], missed: str | None
) -> None:
    """Of all the trials of crashes, a single one that is not as it should be is a goal missed, and no other one."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    crash = importlib.import_module("crash")
    points = {"killed": 300, "power": 10, "full": 10}
    rows = [
        {"contender": kind, "points": n, "as_meant": n, "bit_identical": n, "steps_again": 2, "disk_named": n}
        for kind, n in points.items()
    ]
    next(one for one in rows if one["contender"] == row).update(change)
    goals = crash.goals_of(rows)
    assert [name for name, goal in goals.items() if not goal["met"]] == ([missed] if missed else [])


@pytest.mark.parametrize("missed", ["points_lost", "points_twice", "journal_share", "log_median_us", None])
def test_one_point_lost_or_twice_misses_a_goal(monkeypatch: pytest.MonkeyPatch, missed: str | None) -> None:
    """A single record that is not there once, or a journal that costs more than was wanted, is a goal missed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monitoring = importlib.import_module("monitoring")
    rows = {
        "training": {"share": 0.02 if missed == "journal_share" else 0.001},
        "journal": {"median_us": 101.0 if missed == "log_median_us" else 8.0},
        "outage": {"lost": int(missed == "points_lost"), "twice": int(missed == "points_twice")},
    }
    goals = monitoring.goals_of(rows)
    assert [name for name, goal in goals.items() if not goal["met"]] == ([missed] if missed else [])


@pytest.mark.parametrize("missed", ["verified", "duplicate_commits", "half_written_main", None])
def test_one_push_that_goes_wrong_misses_a_goal(monkeypatch: pytest.MonkeyPatch, missed: str | None) -> None:
    """A single one that is not verified, or a single state of `main` too many; what the Hub forbids is none of them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    publishing = importlib.import_module("publishing")
    row = {"contender": "lost", "pushes": 300, "verified": 300, "commits_twice": 0, "half_written": 0}
    refused = {**row, "contender": "refused", "verified": 0}
    key = {"verified": "verified", "duplicate_commits": "commits_twice", "half_written_main": "half_written"}
    worse = {key[missed]: row[key[missed]] + (-1 if missed == "verified" else 1)} if missed else {}
    goals = publishing.goals_of([row, {**row, **worse}, refused])
    assert [name for name, goal in goals.items() if not goal["met"]] == ([missed] if missed else [])


def test_publishing_has_every_fault_at_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a first push and of one over an older model."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    publishing = importlib.import_module("publishing")
    found = [tuple(one) for one in publishing.trials({True: 30, False: 40}, 1, 200)]
    kinds = set(publishing.NAMES) - {"random"}
    assert {one for one in found if one[0] != "random"} == {
        (kind, first, at) for kind in kinds for first, last in ((True, 30), (False, 40)) for at in range(1, last + 1)
    }
    assert sum(one[0] == "random" for one in found) == 200


@pytest.mark.process
def test_data_compares_every_row_and_tells_every_goal() -> None:
    """Tokens and masks are those of TRL, or of the exact reference where a text looks like a special token."""
    found = measured("data", "--rows", "300", "600")
    assert found["schema_version"] == 1
    assert found["device"]
    assert found["versions"]["trl"]
    names = "cpu_speed_vs_trl ids_equal core_scaling repeat_speedup memory_200k_vs_10k packing_fill"
    assert list(found["goals"]) == names.split()
    assert all(set(goal) == {"goal", "value", "met"} for goal in found["goals"].values())
    assert {row["contender"] for row in found["rows"]} == {"ours", "again", "trl", "fixed_width", "limit"}
    assert all(row["device"] and row["precision"] and row["mask"] for row in found["rows"])
    assert sum(found["equality"]["compared"].values()) == 300
    assert found["goals"]["ids_equal"] == {"goal": "= 1", "value": 1, "met": True}, found["equality"]


def test_orchestration_is_all_that_is_not_a_steps_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls to Prefect inside a body count, and so does what a step beside the training takes when it is over."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    orchestration = importlib.import_module("orchestration")

    def body(began: float, ended: float, prefect_s: float = 0.0, beside: bool = False) -> dict[str, Any]:
        return {"began": began, "ended": ended, "prefect_s": prefect_s, "beside": beside}

    bodies = [body(14, 16, prefect_s=0.5), body(16, 25, beside=True), body(17, 20)]
    found = orchestration.parts(bodies, 10.0, 26.0)
    assert found["steps_s"] == 4.5
    assert found["overhead_s"] == 11.5
    parts = [found[name] for name in ("before_s", "between_s", "within_s", "after_s")]
    assert parts == [4.0, 1.0, 0.5, 6.0]


@pytest.mark.process
def test_orchestration_runs_the_steps_without_prefect() -> None:
    """The library alone makes a run; what was not measured judges no goal."""
    found = measured("orchestration", "--runs", "1", "--steps", "2", "--only", "library")
    assert found["schema_version"] == 1
    assert found["versions"]["prefect"]
    (row,) = found["rows"]
    assert (row["contender"], row["runs"], row["overhead_s"]) == ("library", 1, None)
    assert row["wall_s"] > 0
    assert all(row[name] for name in ("device", "precision", "mask"))
    assert list(found["goals"]) == ["overhead_own_server_s", "overhead_running_server_s"]
    assert all((goal["value"], goal["met"]) == (None, False) for goal in found["goals"].values())


def test_a_run_that_made_no_weights_is_not_called_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are compared where there are some."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    lost_parts = importlib.import_module("lost_parts")
    lines = [lost_parts.line(lost_parts.Row("a part", "exit 1", 1.0, 0, same)) for same in (True, False, None)]
    assert [line.split("steps again, ")[1].split("  ")[0].strip() for line in lines] == ["same", "other weights", "–"]


@pytest.mark.process
def test_an_outage_that_fails_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The thread that writes and the client end with it: the benchmark's process could not end otherwise."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("TRACKIO_WRITE_TOKEN", "")
    outage = importlib.import_module("monitoring_outage")
    server = outage.monitoring_server.Server(tmp_path / "server")  # not started
    monkeypatch.setattr(outage.monitoring_server, "served", lambda _: contextlib.nullcontext(server))
    monkeypatch.setattr(server, "kill", lambda: 1 / 0)
    monkeypatch.setattr(outage, "QUIET", 0.0)
    client = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(outage, "_client", lambda _: client)
    before = threading.active_count()
    try:
        with pytest.raises(ZeroDivisionError):
            outage.measure(tmp_path, 0.0)
        assert threading.active_count() == before
        assert client.poll() is not None
    finally:
        for thread in threading.enumerate():
            if isinstance(thread, outage.Training):
                thread.stop.set()
        client.kill()
        client.wait()


@pytest.mark.process
@pytest.mark.parametrize("module", ["monitoring_server", "trackios"])
def test_a_server_may_say_much_after_its_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str) -> None:
    """What it prints goes to a file: nobody reads it, and a full pipe would hold it up."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    servers = importlib.import_module(module)
    monkeypatch.setattr(servers, "SHOW", "import sys; print(sys.argv[1], flush=True); print('x' * 1_000_000)")
    server = servers.Server(tmp_path / "server")
    server.start()
    try:
        assert server.process.wait(timeout=60) == 0
    finally:
        server.kill()
