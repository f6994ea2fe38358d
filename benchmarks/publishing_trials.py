"""Pushes to a loopback Hub, one after the other, each with its faults; and what the Hub then holds.

python publishing_trials.py TRIALS.json FOLDER RESULT.json, with the tests' Hub on PYTHONPATH
"""

import copy
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hub import hub  # type: ignore[import-not-found]  # of the tests
from hub_faults import Fault, at_random, only  # type: ignore[import-not-found]

from smollm3_ft import files

CLIENT = Path(__file__).parent / "publishing_client.py"
REPO = "tester/model"
TAG, RUN_ID = "a-run", "0f2e1d3c-benchmark"
SECONDS = "2"  # that the client waits for a download's next bytes
LARGE = 1_200_000  # bytes of a file that the Hub takes in parts, each by its hash
KILLED = ("killed", "killed_after")
FAULTS = {
    "status_429": Fault("status", 429, 1),
    "status_500": Fault("status", 500),
    "status_503": Fault("status", 503),
    "drop": Fault("drop"),
    "lost": Fault("lost"),
    "truncated": Fault("truncated"),
    "stalled": Fault("stalled"),
    "refused": Fault("status", 403),
    "killed": Fault("drop"),  # before the request is worked on
    "killed_after": Fault("lost"),  # when it is done
}
Tree = dict[str, str]


class Trial(NamedTuple):
    """A push: the row that it belongs to; `first` into no repository, else over an older model; where its fault is."""

    kind: str
    first: bool
    at: int | None = None
    seed: int | None = None
    share: float = 0.0


class Bench:
    """A Hub, a client, the two folders that are pushed, and the repository with the older one on `main`."""

    def __init__(self, server: Any, client: subprocess.Popen[str], folder: Path) -> None:
        self.server, self.client, self.folder = server, client, folder
        self.old, self.new = model(folder / "old", 1), model(folder / "new", 2)
        self.empty: tuple[Any, Any] = ({}, {})
        self.before = self.empty
        assert self.push(self.old, undisturbed)["record"], "an undisturbed push failed"
        self.before = (server.repos, server.objects)
        self.trees = {"made": tree(self.history()[0]), "old": tree(self.head())}
        assert listed(self.old).items() <= self.trees["old"].items()
        self.requests = {}
        for first in (True, False):
            self.begin(first)
            assert self.push(self.new, undisturbed)["record"], "an undisturbed push failed"
            self.requests[first] = server.faults.requests
        self.trees["new"] = tree(self.head())
        assert listed(self.new).items() <= self.trees["new"].items()

    def begin(self, first: bool) -> None:
        repos, objects = self.empty if first else self.before
        self.server.repos, self.server.objects = copy.deepcopy(repos), dict(objects)

    def head(self) -> Any:
        return self.server.repos["model", REPO].head

    def push(self, folder: Path, plan: Callable[["Future[int]"], Any]) -> dict[str, Any]:
        """Push once. `plan` is given the process that pushes, and says what goes wrong with each request."""
        pid: Future[int] = Future()
        self.server.faults.follow(plan(pid))
        order = {"folder": str(folder), "repo": REPO, "tag": TAG, "run_id": RUN_ID, "beside": str(self.folder)}
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.write(f"{json.dumps(order)}\n")
        self.client.stdin.flush()
        pid.set_result(json.loads(self.client.stdout.readline())["pid"])
        return dict(json.loads(self.client.stdout.readline()))

    def measured(self, trial: Trial) -> dict[str, Any]:
        """One trial, and what the Hub then holds. A push whose process was killed is followed by another."""
        self.begin(trial.first)
        before = 1 if trial.first else len(self.history())
        found = self.push(self.new, lambda pid: planned(trial, pid))
        struck, requests = self.server.faults.struck, self.server.faults.requests
        was_killed = trial.kind in KILLED and found["error"] == "killed"
        if was_killed:
            found = self.push(self.new, undisturbed)
        states = [tree(commit) for commit in self.history()]
        complete = [self.trees[name] for name in (("made", "new") if trial.first else ("made", "old", "new"))]
        repo, record = self.server.repos.get(("model", REPO)), found["record"]
        there = repo is not None and record is not None and states[-1] == self.trees["new"]
        tags = {name for name, sha in repo.refs.items() if name.startswith("refs/tags/")} if repo else set()
        return {
            **trial._asdict(),
            "struck": struck,
            "requests": requests,
            "was_killed": was_killed,
            "seconds": found["seconds"],
            "error": found["error"],
            "remedy": found["remedy"],
            "verified": bool(
                there
                and record["commit"] == repo.head.sha
                and repo.private
                and f"refs/tags/{record['tag']}" in tags
                and repo.refs[f"refs/tags/{record['tag']}"] == repo.head.sha
            ),
            "commits_twice": max(0, len(states) - before - 1),
            "half_written": sum(state not in complete for state in states),
            "states": len(states),
        }

    def history(self) -> list[Any]:
        repo = self.server.repos.get(("model", REPO))
        return list(reversed(repo.history(repo.head))) if repo else []


def undisturbed(_pid: "Future[int]") -> Callable[[int], Any]:
    return lambda _: None


def planned(trial: Trial, pid: "Future[int]") -> Callable[[int], Any]:
    """What goes wrong with which request."""
    if trial.seed is not None:
        return at_random(trial.share, trial.seed)  # type: ignore[no-any-return]
    assert trial.at is not None
    fault = FAULTS[trial.kind]
    if trial.kind == "refused":  # for good, from there on
        return lambda number: fault if number >= (trial.at or 0) else None
    if trial.kind not in KILLED:
        return only(trial.at, fault)  # type: ignore[no-any-return]

    def kill(number: int) -> Any:
        if number != trial.at:
            return None
        os.kill(pid.result(), signal.SIGKILL)
        return fault

    return kill


def model(folder: Path, number: int) -> Path:
    """A folder such as a run publishes, in small: a card, settings, and weights in a large file and a small one."""
    source = random.Random(number)
    folder.mkdir(parents=True)
    head = "---\nlibrary_name: transformers\ntags:\n- smollm3-ft\n---\n"
    files.write(folder / "README.md", f"{head}# Model {number}\n")
    files.write(folder / "config.json", json.dumps({"number": number}))
    files.write(folder / "tokenizer.json", json.dumps({"the same": True}))
    files.write(folder / ("only-old.json" if number == 1 else "only-new.json"), "{}")
    files.write(folder / "model.safetensors", source.randbytes(LARGE))
    files.write(folder / "int8" / "model.safetensors", source.randbytes(1000))
    return folder


def listed(folder: Path) -> Tree:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in paths}


def tree(commit: Any) -> Tree:
    """Every file of a commit by its hash."""
    return {path: blob.sha256 for path, blob in commit.files.items()}


@contextmanager
def opened(folder: Path) -> Iterator[Bench]:
    """A Hub and a client of it."""
    with hub() as server:
        told = {"HF_HUB_DOWNLOAD_TIMEOUT": SECONDS, "HF_HUB_ETAG_TIMEOUT": SECONDS}
        environment = {**server.environment(folder / "home"), **told}
        with subprocess.Popen(
            [sys.executable, str(CLIENT)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as client:
            try:
                yield Bench(server, client, folder)
            finally:
                client.kill()


def main() -> None:
    trials = [Trial(*one) for one in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))]
    with opened(Path(sys.argv[2])) as bench:
        found = [bench.measured(trial) for trial in trials]
        files.write_json(Path(sys.argv[3]), {"trials": found, "requests": list(bench.requests.values())})


if __name__ == "__main__":
    main()
