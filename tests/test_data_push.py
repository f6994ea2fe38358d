"""`smollm3-ft data SOURCE --push owner/name`: the kept rows on the Hub, as a dataset that says where they came from."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Prepare, configure, documents, facts, loaded, write_rows
from hub import Hub, hub

from smollm3_ft import keptrows, sources

REPO = "tester/rows"
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": 2}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
EVERY_KIND = [
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            *[{"role": r, "content": r} for r in ("user", "assistant")],
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Is it warm in Rome?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "weather", "content": "31 °C"},
            {"role": "assistant", "content": "Yes."},
        ],
        "tools": TOOLS,
    },
    {
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "It is 1.", "weight": 0},
            {"role": "user", "content": "Two?"},
            {"role": "assistant", "content": "It is 2."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": "<think>\nadd\n</think>\n2"},
        ]
    },
    {"instruction": "Say it.", "output": "It."},
    {"prompt": "Which?", "chosen": "This.", "rejected": "That."},
    {"prompt": "Good?", "completion": "Yes.", "label": True},
    {"prompt": "Best?", "completions": ["This.", "That."]},
    {"text": "Nothing but words."},
]
PUSH = "import sys; from flows import cli; sys.argv = ['smollm3-ft', 'data', *sys.argv[1:]]; cli.main()"
LOAD = """
import datasets, json, sys
rows = datasets.load_dataset(sys.argv[1])
print(json.dumps({split: rows[split].to_list() for split in rows}))
"""
Push = Callable[..., subprocess.CompletedProcess[str]]


def test_rows_of_every_kind_come_back(prepare: Prepare, tiny: Path, tmp_path: Path) -> None:
    """Read and prepared again, what was written gives the same tokens, and trains on the same of them."""
    rows = [*EVERY_KIND, EVERY_KIND[0], {"prompt": "bad"}]
    given = {"max_bad_rows": 0.5, "validation": "none", "test": "none", "packing": False}
    before = prepare(rows, method=None, **given)
    data = configure(data__source=str(tmp_path / "rows.jsonl")).data
    folder = tmp_path / "dataset"
    where = (folder, tmp_path / "spools")
    parts = keptrows.write(Path(before.folder), sources.locate(data), data, loaded(tiny), *where)
    counts = {part.config: part.rows for part in parts}
    one = {"train": 1}
    assert counts == {"messages": {"train": 5}, "pairs": one, "labelled": one, "ranked": one, "texts": one}
    again = prepare(folder, method=None, **given)

    def told(prepared: Any) -> list[Any]:
        return sorted((one.ids, one.mask) for one in documents(prepared))

    assert told(again) == told(before)


def test_where_a_row_came_from(prepare: Prepare, tiny: Path, tmp_path: Path) -> None:
    """Its file is named without this machine's folders, and its line is that of the file."""
    write_rows(tmp_path / "mine" / "deep" / "a.jsonl", facts(2))
    write_rows(tmp_path / "mine" / "test.jsonl", [{"text": "Held out."}, *facts(1)])
    before = prepare(tmp_path / "mine", method=None, validation="none")
    data = configure(data__source=str(tmp_path / "mine")).data
    rows = keptrows._rows(Path(before.folder), sources.locate(data), data, loaded(tiny))
    told = [(split, row["source"], row["line"]) for split, _, row in rows]
    assert ("test", "mine/test.jsonl", 1) in told
    assert {place for _, place, _ in told} == {"mine/test.jsonl", "mine/deep/a.jsonl"}
    assert len(told) == sum(before.rows.values()) == 3


@pytest.fixture
def there() -> Iterator[Hub]:
    with hub() as found:
        yield found


@pytest.fixture
def push(there: Hub, tiny: Path, tmp_path: Path) -> Push:
    """Pushes 30 rows, a bad one and a repeated one among them, in a process whose Hub this is."""
    source = write_rows(tmp_path / "secret-folder" / "mine.jsonl", [*facts(30), facts(1)[0], {"prompt": "a bad row"}])

    def work(*words: str, token: str = "hf_write", **environment: str) -> subprocess.CompletedProcess[str]:
        typed = [str(source), f"runs_dir={tmp_path / 'runs'}", f"model.name={tiny}", "--push", REPO, *words]
        told = {**there.environment(tmp_path / "home", token), **environment}
        return subprocess.run([sys.executable, "-c", PUSH, *typed], env=told, capture_output=True, text=True)

    return work


@pytest.mark.process
def test_a_dataset_is_pushed_once(there: Hub, push: Push, tmp_path: Path) -> None:
    """Private, in one commit; it loads in a line; pushed again, nothing is sent, and it stays private. No folder of
    this machine, no row that was dropped is in it."""
    told = json.loads(push("--json", "data.max_bad_rows=0.5").stdout)
    repo = there.repos["dataset", REPO]
    url = f"{there.url}/datasets/{REPO}"
    assert told["pushed"] == {"repo": REPO, "commit": repo.head.sha, "url": url, "private": True}
    assert (repo.private, len(repo.commits)) == (True, 2)
    files = {path: blob.content for path, blob in repo.head.files.items() if path != ".gitattributes"}
    paths = [f"data/messages/{split}.parquet" for split in ("test", "train", "validation")]
    assert sorted(files) == ["README.md", "SHA256SUMS", *paths, "ledger.json"]
    assert json.loads(files["ledger.json"])["splits"] == told["splits"]
    everything = b"".join(files.values())
    assert b"a bad row" not in everything
    assert str(tmp_path).encode() not in everything
    loaded = there.ask(LOAD, tmp_path / "home", REPO)
    assert {split: len(rows) for split, rows in loaded.items()} == told["splits"]
    row = loaded["train"][0]
    assert list(row) == ["messages", "source", "line"]
    assert row["messages"][0]["content"] == facts(30)[row["line"] - 1]["prompt"]
    assert row["source"] == "mine.jsonl"
    shown = push("data.max_bad_rows=0.5", "publish.private=false").stdout.splitlines()[-1]
    assert shown == f"The kept rows, private:  {url} at {repo.head.sha[:12]}"
    assert len(repo.commits) == 2
    head = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (head["tags"], head["configs"][0]["config_name"]) == (["smollm3-ft"], "messages")
    assert "| mine.jsonl | prompt_completion | 32 | 30 | 1 duplicate, 1 " in files["README.md"].decode()


@pytest.mark.process
@pytest.mark.parametrize(
    ("token", "environment", "said"),
    [
        ("hf_write", {}, f"--push: {REPO} holds a dataset that smollm3-ft did not make"),
        ("", {}, "HF_TOKEN: --push needs a token that may write"),
        ("hf_write", {"SMOLLM3_FT_PUBLISH_OWNERS": "acme"}, "--push: what belongs to tester may not be"),
    ],
)
def test_what_may_not_be_pushed(there: Hub, push: Push, token: str, environment: dict[str, str], said: str) -> None:
    """It is said in a line before any row is read, and nothing is written."""
    there.add("dataset", REPO, {"README.md": b"# Mine", "rows.jsonl": b"{}\n"}, private=True)
    done = push(token=token, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(said)
    assert not [one for one in there.requests if not one.startswith(("GET ", "HEAD "))]
