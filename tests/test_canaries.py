"""Canaries: tokens in every place where one may stand, and rows of the data. They are looked for wherever anything is
kept or sent, after a run that published to a loopback Hub, and runs that failed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import facts, write_rows
from hub import Hub, hub
from hub_model import Refusal, Repo, Request, User
from hub_spaces import TRACKIO, routes
from searched import found, found_in

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
BIRD, WREN = "canarybird", "goldcrestwren"  # in every token; in every row that is looked for
OWN, UNKNOWN, UNSENDABLE = f"hf_{BIRD}Own{'a' * 20}", f"hf_{BIRD}Unknown{'b' * 20}", f"hf_{BIRD}\x0bUnsendable"
TOLD = {
    "HF_TOKEN": f"{OWN}\n",
    "HF_READ_TOKEN": f"hf_{BIRD}Read{'c' * 20}",
    "TRACKIO_WRITE_TOKEN": f"{BIRD}-write-token",
    "TRACKIO_SPACE_TOKEN": f"hf_{BIRD}Space{'d' * 20}",
}
SHORT = ["train.max_steps=4", "evaluate.general=none", "data.max_bad_rows=1.0"]
MONITORED = ["monitor.dataset=tester/experiments", "monitor.trackio=tester/curves"]

# Every Python that a command starts says which variables of its environment hold a canary.
REPORTING = f"""
import json, os, sys
held = sorted(name for name, value in os.environ.items() if {BIRD!r} in value)
with open({{path!r}}, "a") as file:
    file.write(json.dumps([" ".join(sys.orig_argv), held]) + "\\n")
"""

# Several commands in one process, as a user types them, and the server that the first would start.
COMMANDS = """
import json, os, sys
from pathlib import Path
from flows import cli, server, session
os.environ.update(session.SETTINGS)
codes = {}
with server.running(Path(sys.argv[1])):
    from tasks import setup
    setup.make_plan.retry_delay_seconds = [0, 0]
    for name, told in json.loads(sys.argv[2]).items():
        before = dict(os.environ)
        os.environ.update(told["environment"])
        sys.argv[1:] = ["demo", f"name={name}", *told["words"]]
        try:
            codes[name] = cli.finetune()
        except SystemExit as end:
            codes[name] = end.code
        os.environ.update(before)
print(json.dumps(codes))
"""


class Sung(NamedTuple):
    """What came of the runs: where everything lies, what was said and sent, and which child was told what."""

    runs_dir: Path
    prefect: Path
    output: str
    codes: dict[str, int]
    sent: list[tuple[str, bytes]]  # every request's path and body
    repos: dict[tuple[str, str], Any]
    told: dict[str, list[str]]  # a child's command line: the variables that hold a canary


def data(folder: Path) -> Path:
    """Rows with a canary in each split, and in two that are dropped."""
    broken = [f'{{"prompt": "{WREN} in quotes that do not end', {"prompt": f"{WREN} of no use", "completion": 7}]
    for split, count, more in (("train", 60, broken), ("validation", 4, []), ("test", 4, [])):
        rows = facts(count)
        rows[1] = {"prompt": f"Who is the {WREN} of {split}?", "completion": f"A {WREN} of {split}."}
        write_rows(folder / f"{split}.jsonl", [*rows, *more])
    return folder


def echo(request: Request) -> Any:
    """A refusal that says what it was sent, in header and body."""
    raise Refusal(int(request.part["status"] or 0), "", f"not with {request.headers.get('Authorization')}")


def listened(server: Hub, sent: list[tuple[str, bytes]]) -> None:
    """Let the Hub note all that it gets, be a Trackio too, and echo what it refuses."""
    echoing = {r"(GET|HEAD|POST) /.*echo/status-(?P<status>\d+).*": echo}

    def noted(route: str, respond: Callable[[Request], Any]) -> Callable[[Request], Any]:
        def answer(request: Request) -> Any:
            sent.append((route, request.body))
            return respond(request)

        return answer

    everything = {**TRACKIO, **echoing, **routes(server.url), **server.routes}
    server.routes = {route: noted(route, respond) for route, respond in everything.items()}
    server.tokens |= {OWN: User("tester", "write"), TOLD["TRACKIO_SPACE_TOKEN"]: User("tester", "write")}


@pytest.fixture(scope="module")
def sung(tmp_path_factory: pytest.TempPathFactory) -> Sung:
    """A run that publishes and monitors on the Hub, and four that cannot: every token has a canary, and some rows."""
    folder, sent = tmp_path_factory.mktemp("sung"), []
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(REPORTING.format(path=str(folder / "told.jsonl")))
    (folder / "work").mkdir()
    (folder / "work" / ".env").write_text(f"HF_TOKEN=hf_{BIRD}OfAFile{'e' * 20}\n")
    own = [*SHORT, f"runs_dir={folder / 'runs'}", f"data.source={data(folder / 'data')}"]
    commands = {
        "published": ([*own, *MONITORED, "publish.target=hub", "publish.repo=tester/model"], {}),
        "unknown": ([*own, "publish.target=hub"], {"HF_TOKEN": UNKNOWN}),
        "unsendable": ([*own, "model.name=tester/model"], {"HF_TOKEN": UNSENDABLE}),
        "echoed": ([*own, "model.name=echo/status-403"], {}),
        "typed": ([*own, f"model.name={OWN}"], {}),
    }
    with hub() as server:
        listened(server, sent)
        told = {
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)]),
            "PREFECT_HOME": str(folder / "prefect"),
        }
        environment = {**server.environment(folder / "home"), **TOLD, **told}
        for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
            environment.pop(name, None)
        given = {name: {"words": words, "environment": own} for name, (words, own) in commands.items()}
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, str(folder / "runs"), json.dumps(given)],
            cwd=folder / "work",
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    children = [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]
    return Sung(
        folder / "runs",
        folder / "prefect",
        done.stdout + done.stderr,
        json.loads(done.stdout.splitlines()[-1]),
        sent,
        server.repos,
        dict(children),
    )


def published(sung: Sung) -> list[tuple[str, bytes]]:
    """Every file of every commit of every repository, and all that was sent."""
    repos = {name: repo for name, repo in sung.repos.items() if isinstance(repo, Repo)}
    there = [
        (f"{name} {path}", blob.content)
        for name, repo in repos.items()
        for commit in repo.commits.values()
        for path, blob in commit.files.items()
    ]
    return there + sung.sent


def holding(word: str, contents: list[tuple[str, bytes]]) -> list[str]:
    return sorted({place for place, content in contents if found_in(word, content)})


def test_the_runs_ended_as_they_should(sung: Sung) -> None:
    """One is on the Hub, with its metrics; the others say what is wrong."""
    assert sung.codes == {"published": 0, "unknown": 2, "unsendable": 2, "echoed": 1, "typed": 2}, sung.output
    assert {("model", "tester/model"), ("dataset", "tester/experiments"), ("space", "tester/curves")} <= set(sung.repos)
    assert "HF_TOKEN: the Hub does not know this token" in sung.output
    assert "not with Bearer <secret>" in sung.output
    assert "model.name: holds a token or another secret" in sung.output


def test_no_token_is_kept(sung: Sung) -> None:
    """Not in a run's folder or those beside it, nor in Prefect's database, results and logs, nor on the screen."""
    assert found(BIRD, sung.runs_dir, sung.prefect) == []
    assert BIRD not in sung.output


def test_no_token_is_sent_but_in_a_header(sung: Sung) -> None:
    """A Space's two own secrets are sent to it, and nothing else in any file or body."""
    secrets = r"(GET|POST) /api/(?P<kinds>spaces)/(?P<name>[^/]+/[^/]+)/secrets"
    assert holding(BIRD, published(sung)) == [secrets]
    assert holding(OWN, published(sung)) == []
    kept = sung.repos["space", "tester/curves"].created["secrets"]
    assert kept == {"TRACKIO_WRITE_TOKEN": TOLD["TRACKIO_WRITE_TOKEN"], "HF_TOKEN": TOLD["HF_READ_TOKEN"]}


def test_no_child_is_told_a_token(sung: Sung) -> None:
    """Neither who prepares, trains, evaluates or verifies, nor the server, nor who watches over it."""
    modules = ("smollm3_ft.data", "smollm3_ft.training", "smollm3_ft.evaluation", "smollm3_ft.publishing")
    for module in (*modules, "prefect server start", "flows.server"):
        assert any(module in line for line in sung.told), module
    told = {line: names for line, names in sung.told.items() if names}
    assert list(told.values()) == [sorted(TOLD)], told  # the command itself


def test_no_row_is_sent(sung: Sung) -> None:
    """Of training, validation, test or quarantine: in no card, Space, dataset, curve or log."""
    assert holding(WREN, published(sung)) == []


def test_no_row_is_in_prefect(sung: Sung) -> None:
    """In no artifact, state, log, parameter or result."""
    assert found(WREN, sung.prefect) == []
    assert WREN not in sung.output


def test_the_rows_were_there_to_be_found(sung: Sung) -> None:
    """The run's own folder shows them: held-out ones beside their answers, and what was dropped."""
    folder = sung.runs_dir / "published"
    assert found(f"{WREN} of test", folder / "evaluation.json")
    dropped = (folder / "data" / "quarantine.jsonl").read_text()
    assert all(f'"line": {line}, "reason": "' in dropped for line in (61, 62))
