"""The experiment dataset on the loopback Hub, with the real client and the real `load_dataset`."""

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from experiments_of_tests import CANARY, begun, ended
from hub import Hub, hub
from hub_faults import KINDS, Fault, Faults, at_random
from hub_model import Repo

from smollm3_ft import journal
from smollm3_ft.runs import Run

pytestmark = pytest.mark.process

REPO = "tester/trackio-experiments"
MONITOR = {"monitor__dataset": REPO, "monitor__trackio": "off"}

# Deliver what runs have and, where they have ended, their reports; as the steps beside and behind the training do.
DELIVER = """
import json, sys
from pathlib import Path
from smollm3_ft import hubclient, runs
from smollm3_ft.errors import Undelivered
from smollm3_ft.monitoring import dataset_sink, delivery
hubclient.SILENT = 5.0
said = []
for folder in map(Path, sys.argv[1:]):
    run = runs.read(folder)
    try:
        said.append(dataset_sink.set_up(dataset_sink.repository(run), run.config.monitor.private))
        delivery.deliver_new("dataset", run)
        if (folder / "report.json").is_file():
            delivery.finish("dataset", run)
    except Undelivered as error:
        said.append(str(error))
print(json.dumps(said))
"""

LOAD = """
import json, sys
from datasets import load_dataset
repo = sys.argv[1]
runs, metrics, system = (load_dataset(repo, name, split="train") for name in (None, "metrics", "system"))
print(json.dumps([[dict(row) for row in rows] for rows in (runs, metrics, system)], default=str))
"""


class Loaded(NamedTuple):
    """What was pushed, what loads, and what the Hub was asked."""

    pushed: list[Run]
    runs: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    system: list[dict[str, Any]]
    repo: Repo


def deliver(server: Hub, home: Path, *pushed: Run, token: str = "hf_write") -> list[str]:
    return list(server.ask(DELIVER, home, *(run.folder for run in pushed), token=token))


def at_once(server: Hub, home: Path, *groups: list[Run]) -> None:
    """Deliver each group in a process of its own, all at the same time."""
    environment = server.environment(home)
    commands = [[sys.executable, "-c", DELIVER, *(run.folder for run in group)] for group in groups]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in started:
        output, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        assert all(" is " in said for said in json.loads(output)), output


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Ten runs, delivered by five processes at once into a dataset that was not there, and loaded.

    Of all requests 5 % went wrong, in every way."""
    folder = tmp_path_factory.mktemp("ten")
    given = {**MONITOR, "data__system_prompt": CANARY}
    states = ["failed", *["completed"] * 9]
    pushed = [ended(folder / "runs", f"run-{n}", 10 + n, status=state, **given) for n, state in enumerate(states)]
    with hub() as server:
        server.faults.follow(at_random(0.05, 11, (*KINDS, Fault("status", 412), Fault("status", 429, 1))))
        at_once(server, folder / "home", *(pushed[n::5] for n in range(5)))
        struck = server.faults.struck
        server.faults.follow(Faults().plan)
        tables = server.ask(LOAD, folder / "other", REPO)
        repo = server.repos["dataset", REPO]
    assert struck > 0
    return Loaded(pushed, *tables, repo)


def test_every_run_is_a_row(loaded: Loaded) -> None:
    """`load_dataset(repo)` gives one row a run, with its name, its status, and what it came to."""
    found = {row["run_id"]: row for row in loaded.runs}
    assert len(loaded.runs) == 10
    for number, run in enumerate(loaded.pushed):
        row = found[run.run_id]
        status = "completed" if number else "failed"
        assert (row["name"], row["status"], row["steps"]) == (run.name, status, 10 + number)
        assert (row["base_loss"], row["tuned_loss"], row["verified"]) == (7.0, 1.0, True)
        assert json.loads(row["config"])["train.learning_rate"] == run.config.train.learning_rate


def test_every_value_of_every_journal_is_there_once(loaded: Loaded) -> None:
    """The rows of `metrics` and `system` are what the journals hold, with their ids, steps and times."""
    for run in loaded.pushed:
        there = sorted(_told(row) for row in loaded.metrics + loaded.system if row["run_id"] == run.run_id)
        kept = []
        for name in ("metrics", "host"):
            for one in journal.read(run.path / f"{name}.jsonl"):
                kept += [(one.id, name, str(one.step), key, str(value)) for key, value in one.values.items()]
        assert there == sorted(kept)


def _told(row: dict[str, Any]) -> tuple[str, ...]:
    value = row["text"] if row["number"] is None else row["number"]
    if row["name"] in ("tokens", "memory_bytes"):
        value = int(value)
    return row["id"], row["journal"], str(row["step"]), row["name"], str(value)


def test_it_is_private_and_its_history_is_kept(loaded: Loaded) -> None:
    """A commit a delivery, and no commit twice: the first, the card, and for each run what it had and its end."""
    history = loaded.repo.history(loaded.repo.head)
    titles = [commit.title for commit in history]
    assert loaded.repo.private
    assert len(set(titles)) == len(titles) == 2 + 10
    assert titles[-2:] == ["An experiment dataset", "initial commit"]


class Told(NamedTuple):
    """What a run says of a delivery, the dataset afterwards, and its head before."""

    said: str
    repo: Repo | None
    before: str | None


OURS = {"README.md": b"---\ntags: [smollm3-ft-experiments]\n---\n"}
NOT_OURS = {
    "tester/somebodys": ({"README.md": b"# My data\n", "train.csv": b"a\n1\n"}, True),
    "tester/without-a-card": ({"train.csv": b"a\n1\n"}, True),
    "tester/public": (OURS, False),
    "other/theirs": (OURS, False),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """Deliveries that cannot be made."""
    folder = tmp_path_factory.mktemp("refused")
    places = [*NOT_OURS, "tester/new"]
    pushed = [
        begun(folder / "runs", repo.replace("/", "-"), 5, **{**MONITOR, "monitor__dataset": repo}) for repo in places
    ]
    with hub() as server:
        before = {
            repo: server.add("dataset", repo, there, private=private) for repo, (there, private) in NOT_OURS.items()
        }
        said = deliver(server, folder / "home", *pushed[:-1])
        said += deliver(server, folder / "home", pushed[-1], token="hf_read")
        repos = dict(server.repos)
    return {
        repo: Told(words, repos.get(("dataset", repo)), before.get(repo))
        for repo, words in zip(places, said, strict=True)
    }


def test_what_is_not_ours_is_left_as_it_is(refused: dict[str, Told]) -> None:
    """No commit is made to a repository that this project did not begin, or may not write to."""
    for case, one in refused.items():
        assert one.repo is None if one.before is None else one.repo.head.sha == one.before, case  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("tester/somebodys", "holds something that is no experiment dataset of smollm3-ft; name another one"),
        ("tester/without-a-card", "holds something that is no experiment dataset of smollm3-ft; name another one"),
        ("tester/public", "is public, and monitor.private is true; make it private, or monitor.private=false"),
        ("other/theirs", "see that HF_TOKEN may write there"),
        ("tester/new", "see that HF_TOKEN may write there"),
    ],
)
def test_a_refusal_says_what_to_do(refused: dict[str, Told], repo: str, words: str) -> None:
    """In one line."""
    assert words in refused[repo].said
    assert "\n" not in refused[repo].said


def blobs(repo: Repo) -> Iterator[tuple[str, bytes]]:
    """Every file of every commit, and the columns of those that are compressed."""
    for commit in repo.commits.values():
        for path, blob in commit.files.items():
            yield path, blob.content
            if path.endswith(".parquet"):
                yield path, json.dumps(pq.read_table(io.BytesIO(blob.content)).to_pylist(), default=str).encode()


def test_neither_texts_nor_tokens_nor_folders_go_there(loaded: Loaded) -> None:
    """Samples, system prompts, a failure's words, the token and this machine's folders are in no file of any commit."""
    words = [CANARY, "hf_write", "/home/somebody", str(loaded.pushed[0].path.parent)]
    forms = [form for word in words for form in (word.encode(), base64.b64encode(word.encode()))]
    found = [(path, form) for path, content in blobs(loaded.repo) for form in forms if form in content]
    assert len(loaded.repo.head.files) == 2 + 10 * 4
    assert found == []


def test_a_run_is_there_while_it_trains_and_is_told_again_when_it_has_more(tmp_path: Path) -> None:
    """A delivery without news makes no commit, news replaces the run's files, and what else is there stays."""
    run = begun(tmp_path / "runs", "a", **MONITOR)
    with hub() as server:
        deliver(server, tmp_path / "home", run, run)
        repo = server.repos["dataset", REPO]
        assert len(repo.commits) == 3
        card = repo.head.files["README.md"].content + b"\nMine too.\n"
        server.add("dataset", REPO, {"README.md": card, "notes.txt": b"mine"}, private=True)
        begun(tmp_path / "runs", "a", steps=50, **MONITOR)
        deliver(server, tmp_path / "home", run)
        files_there = repo.head.files
    metrics = next(content for path, content in blobs(repo) if path.endswith("metrics.parquet"))
    assert pq.read_table(io.BytesIO(metrics)).num_rows == 1 + 40 * 3 + 4 + 2
    later = next(blob.content for path, blob in files_there.items() if path.endswith("metrics.parquet"))
    assert pq.read_table(io.BytesIO(later)).num_rows == 1 + 50 * 3 + 5 + 2 + 3
    assert (files_there["README.md"].content, files_there["notes.txt"].content) == (card, b"mine")


def test_what_could_not_be_delivered_is_at_the_next_start(tmp_path: Path) -> None:
    """With the Hub away nothing is marked as there; the next delivery brings all of it, and the report."""
    run = ended(tmp_path / "runs", "a", **MONITOR)
    with hub() as server:
        environment = server.environment(tmp_path / "home")
    quick = DELIVER.replace("said = []", "dataset_sink.PATIENCE = 0.0\nsaid = []")
    done = subprocess.run(
        [sys.executable, "-c", quick, run.folder], env=environment, capture_output=True, text=True, timeout=120
    )
    (said,) = json.loads(done.stdout)
    assert "the Hub does not answer as it should" in said
    assert not (run.path / ".delivered-dataset.json").exists()
    with hub() as server:
        assert deliver(server, tmp_path / "home", run) == [f"{REPO} is new"]
        assert len(server.repos["dataset", REPO].head.files) == 2 + 4


def test_a_fault_at_the_commit_makes_neither_two_nor_none(tmp_path: Path) -> None:
    """The client itself does not repeat a commit; whatever went wrong with it, there is one in the end."""
    pushed = [begun(tmp_path / "runs", f"with-{fault.kind}", 5, **MONITOR) for fault in KINDS]
    with hub() as server:
        struck: list[Fault] = []

        def plan(_number: int) -> Fault | None:
            """One fault at the first commit of each run."""
            repo = server.repos.get(("dataset", REPO))
            there = len(repo.commits) - 2 if repo else -1
            if not 0 <= there == len(struck) < len(KINDS) or "/commit/" not in server.requests[-1]:
                return None
            struck.append(KINDS[there])
            return KINDS[there]

        server.faults.follow(plan)
        said = deliver(server, tmp_path / "home", *pushed)
        repo = server.repos["dataset", REPO]
    assert (struck, said) == (list(KINDS), [f"{REPO} is new"] * 5)
    assert [commit.title.split(":")[0] for commit in repo.history(repo.head)[:5]] == [run.name for run in pushed[::-1]]
    assert len(repo.commits) == 2 + 5
