"""The loopback Hub as the real clients see it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub import Hub, hub

pytestmark = pytest.mark.process

CONFIG, WEIGHTS = b'{"model_type": "tiny"}', bytes(range(256)) * 64
ROWS = [{"text": "one"}, {"text": "two"}]
CARD = b"""---
configs:
- config_name: easy
  data_files: easy.jsonl
- config_name: hard
  data_files: hard.jsonl
---
"""

CLIENT = """
import json, sys
from pathlib import Path
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

api, first, facts = HfApi(), sys.argv[1], {}

def fact(name, ask):
    try:
        facts[name] = ask()
    except Exception as error:
        facts[name] = type(error).__name__

fact("whoami", lambda: api.whoami()["name"])
fact("head", lambda: api.model_info("tester/tiny").sha)
fact("pinned", lambda: api.model_info("tester/tiny", revision=first).sha)
fact("files", lambda: [s.rfilename for s in api.model_info("tester/tiny").siblings])
fact("sizes", lambda: [s.size for s in api.model_info("tester/tiny", files_metadata=True).siblings])
fact("space", lambda: api.space_info("tester/demo").runtime.stage)
fact("tree", lambda: [e.path for e in api.list_repo_tree("tester/tiny", recursive=True)])
fact("top", lambda: [e.path for e in api.list_repo_tree("tester/tiny")])
fact("paths", lambda: [e.path for e in api.get_paths_info("tester/tiny", ["parts/0.bin", "none"])])
fact("refs", lambda: [b.target_commit for b in api.list_repo_refs("tester/tiny").branches])
fact("own", lambda: api.auth_check("tester/tiny", write=True))
fact("foreign", lambda: api.auth_check("other/gated"))
fact("foreign write", lambda: api.auth_check("other/open", write=True))
fact("reader write", lambda: HfApi(token="hf_read").auth_check("tester/tiny", write=True))
fact("bad token", lambda: HfApi(token="hf_unknown").whoami())
fact("no repo", lambda: api.model_info("tester/none"))
fact("no revision", lambda: api.model_info("tester/tiny", revision="0" * 40))
fact("no file", lambda: hf_hub_download("tester/tiny", "none.bin"))
fact("gated", lambda: hf_hub_download("other/gated", "config.json"))
fact("file", lambda: hf_hub_download("tester/tiny", "config.json", revision=first))
fact("folder", lambda: snapshot_download("tester/tiny"))
fact("rows", lambda: load_dataset("tester/rows", split="train").to_list())
fact("configurations", lambda: get_dataset_config_names("tester/levels"))
fact("easy", lambda: load_dataset("tester/levels", "easy", split="train").to_list())
print(json.dumps(facts, default=str))
"""

RAW = """
import json
from huggingface_hub import get_session, hf_hub_url

url, answers = hf_hub_url("tester/tiny", "config.json"), []
for span in ("bytes=2-5", "bytes=2-5", "bytes=2-5", "bytes=99-"):
    answer = get_session().get(url, headers={"Range": span})
    answers.append([answer.status_code, answer.text, answer.headers.get("Content-Range")])
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Seen:
    """What the clients in the child process saw, and the Hub which they saw."""

    hub: Hub
    first: str
    head: str
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    folder = tmp_path_factory.mktemp("space")
    (folder / "app.py").write_text("print('hello')\n")
    with hub() as server:
        first = server.add("model", "tester/tiny", {"config.json": CONFIG})
        head = server.add("model", "tester/tiny", {"config.json": b"{}", "parts/0.bin": WEIGHTS})
        server.add("model", "other/open", {"config.json": CONFIG})
        server.add("model", "other/gated", {"config.json": CONFIG}, gated=True)
        server.add("space", "tester/demo", folder)
        server.add("dataset", "tester/rows", {"data/train-00000.jsonl": lines})
        server.add("dataset", "tester/levels", {"README.md": CARD, "easy.jsonl": lines, "hard.jsonl": lines})
        yield Seen(server, first, head, server.ask(CLIENT, tmp_path_factory.mktemp("home"), first))


def test_a_token_names_its_user(seen: Seen) -> None:
    """whoami answers with the token's user and refuses an unknown token."""
    assert (seen.facts["whoami"], seen.facts["bad token"]) == ("tester", "HfHubHTTPError")


def test_model_info_gives_the_commit(seen: Seen) -> None:
    """model_info gives the head of main, or the commit which is asked for."""
    assert seen.first != seen.head
    assert (seen.facts["head"], seen.facts["pinned"]) == (seen.head, seen.first)
    assert seen.facts["refs"] == [seen.head]


def test_model_info_lists_files(seen: Seen) -> None:
    """model_info lists every file of the commit, with sizes on demand."""
    assert seen.facts["files"] == ["config.json", "parts/0.bin"]
    assert seen.facts["sizes"] == [len(b"{}"), len(WEIGHTS)]


def test_space_info_gives_the_runtime(seen: Seen) -> None:
    """A Space has a runtime stage."""
    assert seen.facts["space"] == "RUNNING"


def test_tree_lists_directories(seen: Seen) -> None:
    """The tree holds files and directories; without recursion only the top ones."""
    assert seen.facts["tree"] == ["config.json", "parts", "parts/0.bin"]
    assert seen.facts["top"] == ["config.json", "parts"]


def test_paths_info_skips_unknown_paths(seen: Seen) -> None:
    """get_paths_info gives only the paths which exist."""
    assert seen.facts["paths"] == ["parts/0.bin"]


def test_writing_needs_a_write_token_of_the_namespace(seen: Seen) -> None:
    """auth_check for writing passes in one's own namespace only, and only with a write token."""
    assert seen.facts["own"] is None
    assert (seen.facts["foreign write"], seen.facts["reader write"]) == ("HfHubHTTPError",) * 2


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ("no repo", "RepositoryNotFoundError"),
        ("no revision", "RevisionNotFoundError"),
        ("no file", "RemoteEntryNotFoundError"),
        ("gated", "GatedRepoError"),
        ("foreign", "GatedRepoError"),
    ],
)
def test_errors_reach_the_client_by_name(seen: Seen, question: str, error: str) -> None:
    """Each refusal becomes the client's own exception."""
    assert seen.facts[question] == error


def test_a_file_downloads_by_commit(seen: Seen) -> None:
    """hf_hub_download gives the bytes which the file had at that commit."""
    assert Path(seen.facts["file"]).read_bytes() == CONFIG


def test_a_snapshot_downloads_whole(seen: Seen) -> None:
    """snapshot_download gives every file of the head under a folder named by its commit."""
    folder = Path(seen.facts["folder"])
    assert folder.name == seen.head
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "parts/0.bin").read_bytes() == WEIGHTS


def test_a_dataset_loads_from_its_file_names(seen: Seen) -> None:
    """load_dataset finds the train split in data/train-00000.jsonl."""
    assert seen.facts["rows"] == ROWS


def test_a_dataset_card_declares_configurations(seen: Seen) -> None:
    """The configurations in README.md are listed and each loads by name."""
    assert seen.facts["configurations"] == ["easy", "hard"]
    assert seen.facts["easy"] == ROWS


READ = """
import json
from smollm3_ft import sources
from smollm3_ft.config import Data
(plan,) = sources.locate(Data.model_validate({"source": "tester/rows"}))
there = sources.fetch(plan)
lines = [(line.place, line.number, line.row) for line in sources.read(there, "train")]
again = list(sources.read(plan, "train"))
print(json.dumps([there.digest == plan.digest, sources.count(there, "train"), lines, again]))
"""


def test_our_rows_are_those_of_the_dataset(seen: Seen, tmp_path: Path) -> None:
    """A dataset is pinned, fetched, and read from the cache under its name and split; fetched or not, the same."""
    same, count, fetched, unfetched = seen.hub.ask(READ, tmp_path)
    assert (same, count) == (True, len(ROWS))
    assert fetched == [["tester/rows:train", number, row] for number, row in enumerate(ROWS, start=1)] == unfetched


def look(server: Hub, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`smollm3-ft data` against the loopback Hub."""
    command = [sys.executable, "-c", "from flows import cli; cli.main()", "data", *words, f"runs_dir={home / 'runs'}"]
    return subprocess.run(command, env=server.environment(home), capture_output=True, text=True, timeout=120)


def test_a_dataset_is_prepared_from_the_hub(seen: Seen, tmp_path: Path) -> None:
    """Its rows are trained under the dataset's name, though the process that prepares has no network."""
    done = look(seen.hub, tmp_path, "tester/levels", "data.config=easy", "--json")
    assert done.returncode == 0, done.stderr
    (source,) = json.loads(done.stdout)["sources"]
    assert (source["source"], source["format"], source["rows"], source["kept"]) == ("tester/levels", "text", 2, 2)


def test_a_missing_configuration_is_answered_with_the_list(seen: Seen, tmp_path: Path) -> None:
    """A dataset of several configurations needs one: the line names them."""
    done = look(seen.hub, tmp_path, "tester/levels")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "data.config: tester/levels has several configurations; choose one of easy, hard"
    )


def test_requests_are_recorded(seen: Seen) -> None:
    """The Hub keeps each request's method and target."""
    assert f"GET /api/models/tester/tiny/revision/{seen.first}" in seen.hub.requests


def test_faults_end_after_their_number_and_ranges_are_served(tmp_path: Path) -> None:
    """Two faults spoil two requests; then a range is served, and one past the end is refused."""
    with hub() as server:
        server.add("model", "tester/tiny", {"config.json": CONFIG})
        server.fault(2, 503)
        spoiled, again, part, past = server.ask(RAW, tmp_path)
    assert (spoiled[0], again[0], past[0]) == (503, 503, 416)
    assert part == [206, CONFIG[2:6].decode(), f"bytes 2-5/{len(CONFIG)}"]
