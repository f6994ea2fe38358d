"""A folder on the loopback Hub, pushed and read back by the real client, with faults on the way."""

import json
import subprocess
import sys
import time
from typing import Any, NamedTuple

import pytest
from hub import Hub, hub
from hub_faults import Fault
from hub_model import Repo

pytestmark = pytest.mark.process

# Pushes as it is told, one a line of stdin: the repository, and which files to write or (null) to remove before it.
PUSH = """
import json, logging, sys
from pathlib import Path
from smollm3_ft import hubclient, hubpush
from smollm3_ft.errors import FinetuneError

hubclient.SILENT, hubclient.FIRST_WAIT, hubpush.PATIENCE = 5.0, 0.05, 10.0
folder, number, told = Path(sys.argv[1]), 0, []
hubpush.log.setLevel(logging.INFO)
hubpush.log.addFilter(lambda record: told.append(record.getMessage()))
for line in sys.stdin:
    repo, changes, spoilt = json.loads(line)
    for path, text in changes.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text) if text is not None else (folder / path).unlink()
    try:
        said = hubpush.push(folder, repo, True, "first", "0123456789abcdef", "A model")
        said["files"] |= spoilt
        number, said["told"], told = number + 1, told, []
        there = hubpush.verify(said, folder.parent / f"there-{number}")
        said["there"] = sorted(p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file())
    except FinetuneError as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), flush=True)
"""
CARD = "---\ntags: [smollm3-ft]\n---\n# A model\n"
MODEL = {"README.md": CARD, "model.safetensors": "weights", "int8/model.safetensors": "fewer", ".hidden/note": "no"}


class Pusher(NamedTuple):
    """A process that pushes, and the Hub that it pushes to."""

    server: Hub
    process: subprocess.Popen[str]

    def push(self, repo: str = "tester/a", spoilt: dict[str, str] | None = None, **files: str | None) -> dict[str, Any]:
        """What a push says after `files` were written, with `spoilt` in the place of what it recorded."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([repo, files, spoilt or {}]), file=self.process.stdin, flush=True)
        return dict(json.loads(self.process.stdout.readline()))

    def repo(self, name: str = "tester/a") -> Repo:
        return self.server.repos["model", name]

    def strike(self, part: str, *faults: Fault) -> None:
        """Let the next requests whose line holds `part` go wrong, one after the other."""
        left = list(faults)
        self.server.requests.clear()
        self.server.faults.follow(lambda _: left.pop(0) if left and part in self.server.requests[-1] else None)

    def asked(self, part: str) -> int:
        return sum(part in request for request in self.server.requests)


@pytest.fixture(scope="module")
def pusher(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("push")
    with hub() as server:
        command, environment = [sys.executable, "-c", PUSH, str(home / "model")], server.environment(home / "home")
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            yield Pusher(server, process)
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture(scope="module")
def first(pusher: Pusher) -> dict[str, Any]:
    """The record of the first push."""
    return pusher.push(**MODEL)


def test_a_folder_is_there_at_once(pusher: Pusher, first: dict[str, Any]) -> None:
    """A private repository, one commit with every file that is not hidden, a tag on it, and the files' hashes."""
    repo, shown = pusher.repo(), [name for name in MODEL if not name.startswith(".")]
    assert repo.private
    assert repo.history(repo.head)[0].sha == first["commit"] == repo.refs["refs/tags/first"]
    assert len(repo.history(repo.head)) == 2
    assert sorted(repo.head.files) == sorted([*shown, ".gitattributes", "SHA256SUMS"])
    assert first["files"] == {name: repo.head.files[name].sha256 for name in shown}
    assert {*shown, "SHA256SUMS"} <= set(first["there"])
    assert first["told"] == ["sending 0.0 MiB to tester/a"]


def test_the_same_again_is_no_commit(pusher: Pusher, first: dict[str, Any]) -> None:
    """Nor is anything sent: the same commit and tag are found."""
    pusher.server.requests.clear()
    again = pusher.push()
    assert (again["commit"], again["tag"], again["told"]) == (first["commit"], first["tag"], [])
    assert pusher.asked("POST") == pusher.asked("PUT") == 0


@pytest.mark.parametrize("kind", ["lost", "truncated", "drop", "status"])
def test_a_fault_at_the_commit_makes_neither_two_nor_none(pusher: Pusher, first: dict[str, Any], kind: str) -> None:
    """Whether the reply was lost or nothing was done, there is one commit with the content in the end."""
    before = len(pusher.repo().commits)
    pusher.strike("/commit/", Fault(kind))
    said = pusher.push(**{"notes.txt": kind})
    assert len(pusher.repo().commits) == before + 1
    assert pusher.repo().head.sha == said["commit"]
    assert pusher.repo().head.files["notes.txt"].content == kind.encode()


def test_another_commit_gets_another_tag(pusher: Pusher, first: dict[str, Any]) -> None:
    """The first one keeps its own: the run's id tells them apart, and then the commit."""
    said = [pusher.push(**{"notes.txt": "1"}), pusher.push(**{"notes.txt": "2"})]
    assert pusher.repo().refs["refs/tags/first"] == first["commit"]
    for one in said:
        assert one["tag"].startswith("first-01234567")
        assert pusher.repo().refs[f"refs/tags/{one['tag']}"] == one["commit"]


def test_what_is_no_longer_part_goes_and_what_others_put_there_stays(pusher: Pusher, first: dict[str, Any]) -> None:
    """In the same commit."""
    pusher.push(**{"old.txt": "old"})
    pusher.server.add("model", "tester/a", {"banner.svg": b"mine"}, private=True)
    before = len(pusher.repo().commits)
    pusher.push(**{"old.txt": None, "new.txt": "new"})
    assert len(pusher.repo().commits) == before + 1
    assert "old.txt" not in pusher.repo().head.files
    assert {"banner.svg", "new.txt"} <= set(pusher.repo().head.files)


def test_a_readme_that_stood_alone_is_in_the_history(pusher: Pusher, first: dict[str, Any]) -> None:
    """The repository was free, as the Hub's website makes one; the card takes the place of what was written there."""
    pusher.server.add("model", "tester/b", {"README.md": b"# Mine"}, private=True)
    pusher.push("tester/b")
    now, before = pusher.repo("tester/b").history(pusher.repo("tester/b").head)
    contents = [commit.files["README.md"].content for commit in (now, before)]
    assert contents == [CARD.encode(), b"# Mine"]


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(pusher: Pusher, first: dict[str, Any]) -> None:
    """The head is looked at again, and both are there."""
    left = ["theirs"]

    def meanwhile(_number: int) -> None:
        if left and "/commit/" in pusher.server.requests[-1]:
            pusher.server.add("model", "tester/a", {"theirs.txt": left.pop().encode()}, private=True)

    pusher.server.faults.follow(meanwhile)
    pusher.push(**{"notes.txt": "ours"})
    found = pusher.repo().head.files
    assert (found["theirs.txt"].content, found["notes.txt"].content) == (b"theirs", b"ours")


@pytest.mark.parametrize("part", ["/commit/", "/preupload/", "/tag/", "POST /api/repos/create"])
def test_what_is_forbidden_is_said_at_once(pusher: Pusher, first: dict[str, Any], part: str) -> None:
    """In a line with what to do, and asked once."""
    pusher.strike(part, *[Fault("status", 403)] * 9)
    began = time.monotonic()
    said = pusher.push(f"tester/not{part.count('create')}", **{"notes.txt": part})
    assert time.monotonic() - began < 30
    assert "ConfigError: publish.repo: the Hub does not let us write to tester/not" in said["error"]
    assert "see what the token may do at https://huggingface.co/settings/tokens" in said["error"]
    assert pusher.asked(part) == 1


def test_the_servers_wait_is_respected(pusher: Pusher, first: dict[str, Any]) -> None:
    """A Hub that is busy says when to come again."""
    pusher.strike("/commit/", Fault("status", 429, 1))
    began = time.monotonic()
    assert "error" not in pusher.push(**{"notes.txt": "busy"})
    assert time.monotonic() - began >= 1


def test_a_hub_that_stays_away_is_named(pusher: Pusher, first: dict[str, Any]) -> None:
    """When its own wait is longer than our patience, at once; `main` is as it was."""
    head = pusher.repo().head.sha
    pusher.strike("/commit/", Fault("status", 503, 30))
    assert pusher.push(**{"notes.txt": "away"})["error"].startswith("HubUnreachable: the Hub does not answer")
    assert pusher.repo().head.sha == head


def test_what_is_not_as_it_was_pushed_is_found(pusher: Pusher, first: dict[str, Any]) -> None:
    """By its hash, on the Hub itself: what is on this machine proves nothing."""
    said = pusher.push(spoilt={"README.md": "0" * 64})["error"]
    assert said.startswith("PublishError: README.md is not as it was pushed in tester/a at")
    assert "PublishError: gone.txt is missing" in pusher.push(spoilt={"gone.txt": "0" * 64})["error"]


def test_a_card_that_the_hub_refuses_is_not_pushed(pusher: Pusher, first: dict[str, Any]) -> None:
    """The client asks before it sends anything."""
    head = pusher.repo().head.sha
    said = pusher.push(**{"README.md": "---\ntags: [\n---\n"})["error"]
    pusher.push(**{"README.md": CARD})
    assert said.startswith("PublishError: the Hub refuses the card of tester/a (Invalid metadata in README.md.")
    assert "\n" not in said
    assert head in pusher.repo().commits
