"""A whole sweep of three trials against a real server: killed in its second, gone on with, its third one hopeless."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import facts, write_rows
from house import ROOT, House, opened, report_of, task_states, until

from smollm3_ft import files, trials

pytestmark = pytest.mark.process

WATCHED = """
import runpy, sys
sys.argv = ["sweep", *sys.argv[1:]]
try:
    runpy.run_module("flows.sweep", run_name="__main__")
except SystemExit as stop:
    code = stop.code or 0
print("imported:", sorted({"torch", "prefect", "transformers", "optuna"} & set(sys.modules)))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "--accept-changes"),
        (["sweep.space.train.learnig_rate.low=1"], 2, "did you mean train.learning_rate?"),
        (["data.source=nothing.jsonl", "sweep.space.train.lora.r.choices=[4,8]"], 2, "there is no nothing.jsonl"),
    ],
)
def test_help_and_mistakes_import_nothing_heavy(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    """What is wrong is said in a line, without torch, Prefect or Optuna."""
    command = [sys.executable, "-c", WATCHED, *words, *([f"runs_dir={tmp_path}"] if code else [])]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "imported: []" in done.stdout
    assert len(done.stderr.splitlines()) == (1 if code else 0)


class Swept(NamedTuple):
    """A sweep that was killed and gone on with, and what its report says."""

    house: House
    output: str
    report: dict[str, Any]

    def folder(self, *parts: str) -> Path:
        return self.house.runs_dir.joinpath(*parts)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    """With this seed the first two learning rates are good ones, and the third is next to nothing."""
    folder = tmp_path_factory.mktemp("sweep")
    source = write_rows(folder / "rows.jsonl", facts(80))
    words = ["name=s", "seed=919", f"data.source={source}", "data.validation=16", "data.test=8", "monitor.trackio=off"]
    words += ["train.max_steps=60", "train.eval_steps=4", "train.save_steps=20", "sweep.trials=3"]
    words += ["sweep.space.train.learning_rate={low: 1e-8, high: 1e-2, log: true}", "sweep.publish_best=true"]
    with opened(folder) as house:
        with start(house, *words) as process:
            until(process, "trial 2 of 3")
            until(process, "step 20: checkpoint")
            process.kill()
        with start(house, *words) as process:
            output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        yield Swept(house, output, files.read_json(house.runs_dir / ".sweeps" / "s" / "report.json"))


def start(house: House, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.sweep", f"runs_dir={house.runs_dir}", *words],
        cwd=ROOT,
        env=house.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_sweep_goes_on_where_it_was(swept: Swept) -> None:
    """The finished trial is not trained again, the one that was killed goes on from its checkpoint."""
    assert [one["state"] for one in swept.report["trials"]] == ["completed", "completed", "pruned"]
    assert "trial 1 of 3" not in swept.output
    assert report_of(swept.house, "s-1")["train"]["resumed_from"] is None
    assert report_of(swept.house, "s-2")["train"]["resumed_from"] >= 20


def test_trials_share_data_and_the_evaluation_of_the_base_model(swept: Swept) -> None:
    """Prepared once; evaluated: the base model once, and each of the two that were trained to the end."""
    assert len([path for path in swept.folder(".prepared").iterdir() if not path.name.startswith(".")]) == 1
    assert len(list(swept.folder(".evaluated").iterdir())) == 3


def test_a_hopeless_trial_ends_early_and_says_why(swept: Swept) -> None:
    """Its run is interrupted, with the reason in its report, and the sweep's table has it too."""
    report = report_of(swept.house, "s-3")
    why = swept.report["trials"][2]["cause"]
    assert report["status"] == "interrupted"
    assert "is worse than the median of the trials before it" in why
    assert f"training interrupted: pruned: {why}" in [alert["what"] for alert in report["alerts"]]
    assert not (swept.folder("s-3") / "model").exists()


def test_the_best_trial_is_published(swept: Swept) -> None:
    """It alone, verified, and its own report says so."""
    best = swept.report["best"]["name"]
    assert swept.report["best"]["value"] == min(one["value"] for one in swept.report["trials"])
    assert swept.report["published"]["verified"] is True
    assert report_of(swept.house, best)["published"]["verified"] is True
    published = [name for name in ("s-1", "s-2", "s-3") if (swept.folder(name) / "published.json").is_file()]
    assert published == [best]


def test_prefect_shows_the_sweep_and_its_trials(swept: Swept) -> None:
    """The killed flow run has crashed; the other has its trials as tasks, and is completed."""
    former, states = task_states(swept.house, "s")
    assert former["flow run"] == "Crashed"
    assert states["flow run"] == "Completed"
    assert states["s-2"] == "Completed"
    assert {"resolve sweep", "report sweep", "s-3"} <= set(states)


def test_what_a_sweep_leaves_is_in_its_folder(swept: Swept) -> None:
    """Beside the runs only names with a dot; the report as a page and as markdown, and the study."""
    folder = swept.folder(".sweeps", "s")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"report.html", "report.md", "report.json", "sweep.json", "sweep.yaml", trials.STUDY}
    runs = {path.name for path in swept.folder().iterdir() if not path.name.startswith(".")}
    assert runs == {"s-1", "s-2", "s-3"}
