"""The benchmarks run on small sizes and say what the contract wants; what they measure is not judged here."""

import importlib
import json
import os
import subprocess
import sys
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
