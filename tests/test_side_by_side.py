"""Runs side by side: what is said of them, in the terminal, as JSON, and as a page, from a folder or a dataset."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from experiments_of_tests import begun, ended
from hub import Hub, hub
from typer.testing import CliRunner

from flows import cli
from smollm3_ft import experimentfiles, experimentreading, experiments, runs, sidebyside
from smollm3_ft.errors import ConfigError
from smollm3_ft.sidebyside import View

REPO = "tester/trackio-experiments"


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that is done, another with another learning rate, and one that has only begun."""
    folder = tmp_path_factory.mktemp("three") / "runs"
    ended(folder, "one")
    ended(folder, "faster", tuned=2.0, train__learning_rate=0.01)
    begun(folder, "cut", steps=10)
    return folder


@pytest.fixture(scope="module")
def seen(runs_dir: Path) -> View:
    found = experimentreading.found(["one", "faster", "cut"], runs_dir, None)
    return sidebyside.view([one.experiment for one in found], [one.curves for one in found])


def invoked(*words: str) -> str:
    done = CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "140"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_only_what_differs_of_the_configurations_is_said(seen: View) -> None:
    """One key was given another value; what says where results go is not compared."""
    assert [(line.name, line.values) for line in seen.config] == [
        ("train.learning_rate", ("0.003", "0.01", "0.003")),
    ]


def test_a_run_without_results_has_dashes(seen: View) -> None:
    """Its curves are there as far as they have come."""
    table = {line.name: line.values for line in seen.summary}
    assert (table["status"], table["steps"]) == (("completed", "completed", "interrupted"), ("40", "40", "10"))
    assert table["loss"] == ("7.000 → 1.000", "7.000 → 2.000", "–")
    assert [len(line) for line in seen.curves["Validation loss"]] == [4, 4, 1]


def test_the_page_needs_nothing_else_and_escapes_names(runs_dir: Path) -> None:
    """It loads no file and no address, holds a plot of each curve, and a name is text."""
    (one,) = experimentreading.found(["one"], runs_dir, None)
    named = one.experiment.model_copy(update={"name": "<b>x</b>"})
    page = sidebyside.page(sidebyside.view([named, one.experiment], [one.curves] * 2))
    assert page.count("<svg") == 3
    assert "<b>x</b>" not in page
    assert re.findall(r"(?:src|href)=|https?://(?!www\.w3\.org/2000/svg)|<script|@import", page) == []


def test_a_page_that_cannot_be_written_is_said(runs_dir: Path, tmp_path: Path) -> None:
    """A folder, for example, is no file: a mistake of the user's, and no traceback."""
    words = ["compare", "one", f"runs_dir={runs_dir}", "--html", str(tmp_path)]
    assert isinstance(CliRunner().invoke(cli.app, words).exception, ConfigError)


def test_the_commands_show_it(runs_dir: Path, tmp_path: Path) -> None:
    """`runs` lists the newest first; `compare` prints tables, JSON that holds the points, and writes the page."""
    where = f"runs_dir={runs_dir}"
    names = [run.name for run in runs.listed(runs_dir)]
    assert [line.split()[0] for line in invoked("runs", where).splitlines()[1:]] == names
    told = json.loads(invoked("compare", "one", "faster", where, "--json"))
    assert (told["schema_version"], len(told["curves"]["Training loss"]["one"])) == (1, 40)
    assert "Where their configurations differ" in invoked("compare", "one", "faster", where)
    invoked("compare", "one", "faster", where, "--html", str(tmp_path / "page.html"))
    assert "side by side" in (tmp_path / "page.html").read_text()


def test_a_run_that_is_not_there_is_one_line(runs_dir: Path) -> None:
    """With where to look; no traceback."""
    with pytest.raises(ConfigError, match=r"there is no run in .*none"):
        experimentreading.found(["none"], runs_dir, None)


FROM_THE_DATASET = """
import json, sys
from pathlib import Path
from smollm3_ft import experimentreading
listed = experimentreading.listed_of_dataset(sys.argv[1])
found = experimentreading.found(["one", "faster"], Path("nowhere"), sys.argv[1])
print(json.dumps([[one.name for one in listed], [[one.experiment.model_dump(), one.curves] for one in found]]))
"""


@pytest.fixture(scope="module")
def server(runs_dir: Path) -> Iterator[Hub]:
    """A Hub with the same runs in a dataset."""
    with hub() as running:
        for folder in runs_dir.glob("[a-z]*"):
            told = experiments.shared(experiments.of_run(folder), texts=False)
            made = experimentfiles.made(told, experiments.values(folder))
            running.add("dataset", REPO, {"README.md": experimentfiles.card(REPO).encode(), **made}, private=True)
        yield running


def test_a_dataset_shows_what_the_folder_shows(server: Hub, runs_dir: Path, tmp_path: Path) -> None:
    """The same runs with the same curves, but for this machine's folders."""
    listed, found = server.ask(FROM_THE_DATASET, tmp_path, REPO)
    assert sorted(listed) == ["cut", "faster", "one"]
    for name, (experiment, curves) in zip(("one", "faster"), found, strict=True):
        (here,) = experimentreading.found([name], runs_dir, None)
        told = experiments.shared(here.experiment, texts=False)
        assert experiment == told.model_dump()
        assert _points(curves) == _points(here.curves)


def _points(curves: dict[str, Any]) -> dict[str, list[tuple[float, ...]]]:
    return {name: [tuple(point) for point in line] for name, line in curves.items()}
