"""A Trackio Space, call by call on a loopback Hub, and records sent to a real Trackio that runs as a Space does."""

import functools
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import configure
from hub import Hub, hub
from hub_spaces import routes
from trackios import Server

from smollm3_ft import runs
from smollm3_ft.journal import Journal

SPACE = "tester/curves"
VERSION = importlib.metadata.version("trackio")

ADDRESS = """
import sys
from smollm3_ft.errors import Undelivered
from smollm3_ft.monitoring import trackio_space
try:
    print(trackio_space.address(sys.argv[1], sys.argv[2] == "private"))
except Undelivered as error:
    print(error)
"""

# Trackio's client gives the Hub's token to hosts of hf.space alone; the loopback counts as one here.
DELIVER = """
import sys
from pathlib import Path
from trackio import remote_client
from smollm3_ft import runs
from smollm3_ft.errors import Undelivered
from smollm3_ft.monitoring import delivery
remote_client._host_is_hf_space = lambda url: True
run = runs.read(Path(sys.argv[1]))
try:
    print(delivery.deliver_new("trackio", run))
    if (run.path / "report.json").is_file():
        delivery.finish("trackio", run)
except Undelivered as error:
    print(error)
"""


READ_TOKEN = """
import os, sys
os.environ["HF_READ_TOKEN"] = sys.argv[2]
from smollm3_ft.errors import Undelivered
from smollm3_ft.monitoring import trackio_space
try:
    trackio_space.give_read_token(sys.argv[1])
except Undelivered as error:
    print(error)
"""


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub(routes("https://tester-curves.hf.space")) as found:
        yield found


def said(hub: Hub, home: Path, script: str, *words: str, token: str = "hf_write", **environment: str) -> str:
    """What the script prints, in a process whose Hub this is and whose secrets these are."""
    told = {"TRACKIO_WRITE_TOKEN": "", "TRACKIO_SPACE_TOKEN": "", **hub.environment(home, token), **environment}
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, env=told, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def test_a_space_is_made_call_by_call(there: Hub, tmp_path: Path) -> None:
    """Created private, its bucket mounted, variables and secrets set, then all files in one commit; again, no call."""
    address = functools.partial(said, there, tmp_path, ADDRESS, SPACE, "private")
    assert address(TRACKIO_SPACE_TOKEN="hf_for_the_space") == "https://tester-curves.hf.space"
    calls = [one for one in there.requests if not one.startswith("GET /api/agent-harnesses")]
    assert calls == [
        f"GET /api/spaces/{SPACE}",
        f"GET /api/buckets/{SPACE}-bucket",
        "POST /api/repos/create",
        f"POST /api/buckets/{SPACE}-bucket",
        f"PUT /api/spaces/{SPACE}/volumes",
        f"POST /api/spaces/{SPACE}/variables",
        f"POST /api/spaces/{SPACE}/variables",
        f"GET /api/spaces/{SPACE}/secrets",
        f"POST /api/spaces/{SPACE}/secrets",
        f"POST /api/spaces/{SPACE}/secrets",
        "POST /api/validate-yaml",
        f"POST /api/spaces/{SPACE}/preupload/main",
        f"POST /api/spaces/{SPACE}/commit/main",
        f"GET /api/spaces/{SPACE}",
    ]
    made = there.repos["space", SPACE]
    assert (made.private, made.created["sdk"]) == (True, "gradio")
    assert there.repos["bucket", f"{SPACE}-bucket"] == {"visibility": "private"}
    (volume,) = made.created["volumes"]
    assert (volume["source"], volume["mountPath"]) == (f"{SPACE}-bucket", "/data")
    assert made.created["variables"] == {"TRACKIO_DIR": "/data/trackio", "TRACKIO_BUCKET_ID": f"{SPACE}-bucket"}
    files = {path: blob.content.decode() for path, blob in made.head.files.items() if path != ".gitattributes"}
    assert files["requirements.txt"] == f"trackio[spaces]=={VERSION}\n"
    assert "app_file: app.py" in files["README.md"]
    assert "{" not in files["README.md"]
    assert "trackio.show()" in files["app.py"]
    there.requests.clear()
    address()
    looks = [f"GET /api/spaces/{SPACE}", f"GET /api/buckets/{SPACE}-bucket"]
    assert [one for one in there.requests if "harnesses" not in one] == looks


def test_the_secrets_of_a_space(there: Hub, tmp_path: Path) -> None:
    """A random token to write with, and nothing of the user's; what is given is what it gets."""
    said(there, tmp_path, ADDRESS, SPACE, "private")
    given = {"TRACKIO_WRITE_TOKEN": "given", "TRACKIO_SPACE_TOKEN": "hf_for_the_space"}
    said(there, tmp_path, ADDRESS, "tester/other", "private", **given)
    random, told = (there.repos["space", name].created["secrets"] for name in (SPACE, "tester/other"))
    assert list(random) == ["TRACKIO_WRITE_TOKEN"]
    assert len(random["TRACKIO_WRITE_TOKEN"]) > 30
    assert told == {"TRACKIO_WRITE_TOKEN": "given", "HF_TOKEN": "hf_for_the_space"}


def test_no_space_gets_the_users_own_token(there: Hub, tmp_path: Path) -> None:
    """Not even where it is named as the Space's."""
    words = said(there, tmp_path, ADDRESS, SPACE, "private", TRACKIO_SPACE_TOKEN="hf_write")
    assert words.startswith("TRACKIO_SPACE_TOKEN is your own token, which no Space may have")
    assert "hf_write" not in json.dumps([repo.created for (kind, _), repo in there.repos.items() if kind == "space"])


def test_a_space_that_was_cut_short_is_finished(there: Hub, tmp_path: Path) -> None:
    """One without its program is made whole, and the secrets that it has are left."""
    said(there, tmp_path, ADDRESS, SPACE, "private")
    made = there.repos["space", SPACE]
    made.refs["refs/heads/main"] = next(iter(made.commits))  # as after a kill before the commit
    before = dict(made.created["secrets"])
    said(there, tmp_path, ADDRESS, SPACE, "private", TRACKIO_WRITE_TOKEN="another")
    assert made.created["secrets"] == before
    assert "app.py" in made.head.files


@pytest.mark.parametrize(
    ("files", "private", "words"),
    [
        ({"app.py": b"", "README.md": b""}, False, "is public, and monitor.private is true; make it private"),
        ({"Dockerfile": b"", "README.md": b""}, True, "holds something that is no Trackio; name another one"),
    ],
)
def test_a_space_that_cannot_be_used(
    there: Hub, tmp_path: Path, files: dict[str, bytes], private: bool, words: str
) -> None:
    """It is left as it is, and a line says why."""
    there.add("space", SPACE, files, private=private)
    assert words in said(there, tmp_path, ADDRESS, SPACE, "private")
    assert not [one for one in there.requests if not one.startswith("GET ")]


@pytest.mark.parametrize("files", [{}, {"app.py": b"", "README.md": b""}])
def test_a_space_whose_bucket_is_public(there: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    """Where a private one is asked for, neither a new Space nor one that is there gets data that everybody may read."""
    there.repos["bucket", f"{SPACE}-bucket"] = {"visibility": "public"}
    if files:
        there.add("space", SPACE, files, private=True)
    words = said(there, tmp_path, ADDRESS, SPACE, "private")
    assert words.startswith(f"the bucket {SPACE}-bucket is public, and monitor.private is true; make it private")
    assert not [one for one in there.requests if not one.startswith("GET ")]
    assert "is public" not in said(there, tmp_path, ADDRESS, SPACE, "public")


def test_a_token_that_may_not_write(there: Hub, tmp_path: Path) -> None:
    """A line says which Space, and what is missing."""
    words = said(there, tmp_path, ADDRESS, SPACE, "private", token="hf_read")
    assert words.startswith(f"the Hub did not give us the Space {SPACE} (")
    assert words.endswith("; see that HF_TOKEN may write there")


def test_a_space_gets_the_read_token_for_its_own(there: Hub, tmp_path: Path) -> None:
    """It is set in the place of the Space's token, and nothing else is asked; without one, nothing at all."""
    said(there, tmp_path, ADDRESS, SPACE, "private", TRACKIO_SPACE_TOKEN="hf_for_the_space")
    secrets = there.repos["space", SPACE].created["secrets"]
    kept = dict(secrets)
    there.requests.clear()
    said(there, tmp_path, READ_TOKEN, SPACE, "")
    assert (secrets, there.requests) == (kept, [])
    said(there, tmp_path, READ_TOKEN, SPACE, "hf_read\n")
    assert there.requests == [f"GET /api/spaces/{SPACE}/secrets", f"POST /api/spaces/{SPACE}/secrets"]
    assert secrets == {**kept, "HF_TOKEN": "hf_read"}


def test_a_space_without_a_token_gets_none(there: Hub, tmp_path: Path) -> None:
    """It needs none: its data are in its bucket."""
    said(there, tmp_path, ADDRESS, SPACE, "private")
    said(there, tmp_path, READ_TOKEN, SPACE, "hf_read")
    assert list(there.repos["space", SPACE].created["secrets"]) == ["TRACKIO_WRITE_TOKEN"]


def test_the_users_token_is_no_read_token(there: Hub, tmp_path: Path) -> None:
    """A line says so, and the Space keeps what it has."""
    said(there, tmp_path, ADDRESS, SPACE, "private", TRACKIO_SPACE_TOKEN="hf_for_the_space")
    words = said(there, tmp_path, READ_TOKEN, SPACE, "hf_write")
    assert words.startswith("HF_READ_TOKEN: is your own HF_TOKEN, which no Space may have")
    assert there.repos["space", SPACE].created["secrets"]["HF_TOKEN"] == "hf_for_the_space"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Server]]:
    """A Trackio as it runs on a Space, which asks the Hub who may write."""
    with Server(tmp_path_factory.mktemp("space")) as server, hub(routes(server.url)) as found:
        found.add("space", SPACE, {"app.py": b"", "README.md": b""}, private=True)
        told = {"SYSTEM": "spaces", "SPACE_AUTHOR_NAME": "tester", "SPACE_REPO_NAME": "curves", "HF_HUB_OFFLINE": "0"}
        server.environment |= {**found.environment(tmp_path_factory.mktemp("home"), ""), **told}
        server.environment["HF_TOKEN"] = "hf_for_the_space"
        server.start()
        yield found, server


@pytest.mark.parametrize(
    ("token", "given"), [("hf_write", {}), ("hf_write", {"TRACKIO_SPACE_TOKEN": "hf_for_the_space"})]
)
def test_a_space_takes_what_its_owner_sends(
    space: tuple[Hub, Server], tmp_path: Path, token: str, given: dict[str, Any]
) -> None:
    """With the user's token, about which the Space asks the Hub, or with the one that the Space itself has."""
    found, server = space
    run = runs.begin(configure(name="a", runs_dir=str(tmp_path), monitor__trackio=SPACE))
    with Journal(run.path / "metrics.jsonl", run.run_id) as metrics:
        for step in (1, 2, 3):
            metrics.write("train", {"loss": 1 / step}, step)
    found.requests.clear()
    assert said(found, tmp_path / "home", DELIVER, run.folder, token=token, **given) == "3"
    assert [step for step, *_ in server.points(run.run_id)] == [1, 2, 3]
    asked = [one for one in found.requests if "auth-check" in one]
    assert asked == ([] if given else [f"GET /api/spaces/{SPACE}/auth-check/write"])


def test_a_space_takes_nothing_from_others(space: tuple[Hub, Server], tmp_path: Path) -> None:
    """A token that may not write to it is refused, in a line."""
    found, _ = space
    run = runs.begin(configure(name="a", runs_dir=str(tmp_path), monitor__trackio=SPACE))
    with Journal(run.path / "metrics.jsonl", run.run_id) as metrics:
        metrics.write("train", {"loss": 1.0}, 1)
    words = said(found, tmp_path / "home", DELIVER, run.folder, token="hf_read")
    assert words.startswith(f"Trackio on {SPACE} does not let us write")


def test_the_token_goes_when_the_report_is_there(space: tuple[Hub, Server], tmp_path: Path) -> None:
    """After the last delivery, which the user's own token makes, the Space has HF_READ_TOKEN."""
    found, _ = space
    run = runs.begin(configure(name="b", runs_dir=str(tmp_path), monitor__trackio=SPACE))
    (run.path / "report.json").write_text('{"status": "completed"}')
    (run.path / "report.md").write_text("# b")
    secrets = found.repos["space", SPACE].created["secrets"] = {"HF_TOKEN": "hf_for_the_space"}
    given = {"TRACKIO_SPACE_TOKEN": "hf_for_the_space", "HF_READ_TOKEN": "hf_read"}
    assert said(found, tmp_path / "home", DELIVER, run.folder, **given) == "0"  # no record, but a report
    assert found.requests[-1] == f"POST /api/spaces/{SPACE}/secrets"
    assert secrets == {"HF_TOKEN": "hf_read"}
