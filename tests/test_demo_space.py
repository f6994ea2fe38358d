"""A demo Space, call by call on a loopback Hub, and asked while its own files run as on a Space."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from building import Builder, build
from conftest import configure, problems
from hub import Hub, hub
from hub_spaces import routes
from tuned import learn

from smollm3_ft import demospace, files, hubclient, runs
from smollm3_ft.config import Publish

pytestmark = pytest.mark.process

MODEL, SPACE = "tester/a", "tester/chat"
DEPLOY = """
import json, os, sys
from pathlib import Path
from smollm3_ft import demospace, files, runs
from smollm3_ft.errors import FinetuneError
os.environ["HF_READ_TOKEN"] = sys.argv[2]
demospace.BETWEEN = 0.2
run = runs.read(Path(sys.argv[1]))
try:
    told = (run.path / "told.txt").open("a")
    say = lambda line: print(line, file=told, flush=True)
    print(json.dumps(demospace.deployed(run, files.read_json(run.path / "published.json"), say)))
except FinetuneError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    with build(tmp_path_factory.mktemp("space")) as made, hub(routes(made.host, made.stage)) as made.hub:
        yield made


@pytest.fixture
def there() -> Iterator[Hub]:
    """A Hub on which every Space fails to be built."""
    with hub(routes("http://127.0.0.1:9", lambda _: "BUILD_ERROR")) as found:
        yield found


def published(folder: Path, on: Hub, commit: str = "0" * 40) -> runs.Run:
    """A run whose model is on the Hub and verified."""
    run = runs.begin(configure(name="a", runs_dir=str(folder)))
    publish = Publish(target="hub", repo=MODEL, private=True, demo_space=SPACE)
    run = runs.save(run.model_copy(update={"config": run.config.model_copy(update={"publish": publish})}))
    record = {"target": "hub", "repo": MODEL, "commit": commit, "verified": True, "files": {}}
    files.write_json(run.path / "published.json", record)
    return run


def deploy(on: Hub, home: Path, run: runs.Run, read_token: str = "hf_read") -> Any:
    """The record, or what is said against it."""
    return on.ask(DEPLOY, home, run.folder, read_token)


def test_a_space_is_made_and_answers(builder: Builder, tiny: Path, tmp_path: Path) -> None:
    """Created private; variables and the secret are set, then all files come in one commit; it starts from these alone
    with the private model at its commit, and answers a question. Again, nothing is asked."""
    assert builder.hub is not None
    on = builder.hub
    run = published(tmp_path, on, on.add("model", MODEL, learn(tiny, tmp_path / "model"), private=True))
    record = deploy(on, tmp_path / "home", run)
    assert record["demo_space"] == {"space": SPACE, "url": f"{on.url}/spaces/{SPACE}", "tried": True}
    assert files.read_json(run.path / "published.json") == record
    calls = [one for one in on.requests if SPACE in one or "create" in one or "yaml" in one]
    polled = f"GET /api/spaces/{SPACE}/runtime"
    assert [one for one in calls if one != polled] == [
        f"GET /api/spaces/{SPACE}?blobs=true",
        "POST /api/repos/create",
        f"GET /api/spaces/{SPACE}",
        f"GET /api/spaces/{SPACE}/variables",
        *[f"POST /api/spaces/{SPACE}/variables"] * 3,
        f"POST /api/spaces/{SPACE}/secrets",
        "POST /api/validate-yaml",
        f"POST /api/spaces/{SPACE}/preupload/main",
        f"POST /api/spaces/{SPACE}/commit/main",
        f"GET /api/spaces/{SPACE}",
    ]
    made = on.repos["space", SPACE]
    assert (made.private, made.created["sdk"]) == (True, "gradio")
    assert made.created["secrets"] == {"HF_TOKEN": "hf_read"}
    assert made.created["variables"] == demospace.variables(record)
    assert f"HEAD /{MODEL}/resolve/{record['commit']}/config.json" in on.requests
    told = (run.path / "told.txt").read_text().splitlines()
    assert told[1:] == [f"the Space {SPACE} is {stage}" for stage in ("APP_STARTING", "RUNNING")]
    on.requests.clear()
    assert deploy(on, tmp_path / "home", run) == record
    assert not on.requests


def test_a_space_that_is_not_built(there: Hub, tmp_path: Path) -> None:
    """The end of its log is told, without its token; what was published stays verified, and the Space untried."""
    run = published(tmp_path, there)
    there.add("space", SPACE, {"README.md": b""}, private=True)
    there.repos["space", SPACE].created["log"] = [f"line {n}\n" for n in range(9)] + [f"no room for hf_{'x' * 34}\n"]
    said = deploy(there, tmp_path / "home", run)
    assert said.startswith(f"the Space {SPACE} does not start (BUILD_ERROR): line 5 | ")
    assert said.endswith("no room for <secret>; the model is published and verified; publish again for the Space alone")
    record = files.read_json(run.path / "published.json")
    assert (record["verified"], record["demo_space"]["tried"]) == (True, False)
    told = [f"waiting for the Space {SPACE} to start, for up to 30 minutes", f"the Space {SPACE} is BUILD_ERROR"]
    assert (run.path / "told.txt").read_text().splitlines() == told


@pytest.mark.parametrize(
    ("contents", "private", "token", "words"),
    [
        ({"app.py": b"", "README.md": b"---\nsdk: gradio\n---\n"}, True, "hf_read", "holds a space that smollm3-ft"),
        ({"app.py": b"", "README.md": b"---\ntags:\n- smollm3-ft\n---\n"}, False, "hf_read", "is public, and"),
        ({}, True, "hf_write", "HF_READ_TOKEN: is your own HF_TOKEN, which no Space may have"),
        ({}, True, "", f"HF_READ_TOKEN: is not set, and without it the Space {SPACE} cannot read a private model"),
    ],
)
def test_a_space_that_may_not_be_made(
    there: Hub, tmp_path: Path, contents: dict[str, bytes], private: bool, token: str, words: str
) -> None:
    """Somebody's other Space is left as it is, and no Space gets the user's token; a line says what to do."""
    there.add("space", SPACE, contents, private=private)
    assert words in deploy(there, tmp_path / "home", published(tmp_path, there), token)
    assert not [one for one in there.requests if not one.startswith(("GET ", "HEAD "))]


def test_a_space_needs_a_model_on_the_hub() -> None:
    """A configuration without is refused."""
    (found,) = problems("publish.demo_space=tester/chat")
    assert str(found).startswith("publish.demo_space: a Space shows a model that is on the Hub; ")


def test_what_a_space_holds() -> None:
    """A head that names the model, pinned versions as they are locked here, and a program that needs nothing else."""
    made = demospace.contents("a", {"repo": MODEL, "commit": "0" * 40})
    head = yaml.safe_load(made["README.md"].split("---\n")[1])
    assert (head["title"], head["sdk"], head["app_file"], head["models"]) == ("a", "gradio", "app.py", [MODEL])
    lock = (Path(__file__).parent.parent / "requirements.lock").read_text().splitlines()
    assert {f"gradio=={head['sdk_version']}", *made["requirements.txt"].splitlines()} <= set(lock)
    imported = re.findall(r"^(?:import|from) (\w+)", ast.unparse(ast.parse(made["app.py"])), re.MULTILINE)
    assert "smollm3_ft" not in imported
    assert {"gradio", "torch", "transformers"} & set(imported) == {"torch", "transformers"}


def test_the_read_token_is_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line break behind a token, as a file has it, is no part of it."""
    monkeypatch.setenv("HF_READ_TOKEN", "hf_reads\n")
    assert hubclient.read_token() == "hf_reads"
