"""What several test modules start from: the built-in model, prepared data, and runs that are ready to train."""

import functools
import gc
import itertools
import json
import os
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smollm3_ft import chat as chats
from smollm3_ft import data, devices, fit, layers, models, probes, resolve, runs, shards, sources
from smollm3_ft.config import Config
from smollm3_ft.data import Prepared
from smollm3_ft.errors import ConfigError, Problem
from smollm3_ft.fit import TrainingPlan

# As in the project's own child processes: a thread that spins while it waits takes a core from whoever works.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
gc.disable()  # as those do: nothing that test modules import is garbage

Prepare = Callable[..., Prepared]
MakePlan = Callable[..., TrainingPlan]
Program = Callable[[str], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first, so that none of the long ones is left for the end, beside an idle core."""
    long = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Garbage is looked for from here on, and not among what was imported."""
    gc.freeze()
    gc.enable()


class Document(NamedTuple):
    """A prepared row, taken out of its packed sequence."""

    ids: list[int]
    mask: list[int]
    answer: int
    line: int


def facts(count: int) -> list[dict[str, str]]:
    """Different rows of different lengths."""
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    return [
        {"prompt": f"What is number {n}? {' '.join(words[: n % 8])}", "completion": f"It is {words[n % 7]} {n}."}
        for n in range(count)
    ]


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A JSON-lines file. Text is a line as it stands."""
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def configure(**given: Any) -> Config:
    """The demo's configuration with some keys set (`data__source` for `data.source`), and none from the environment."""
    nested: dict[str, Any] = {}
    for name, value in given.items():
        section, _, key = name.rpartition("__")
        (nested.setdefault(section, {}) if section else nested)[key] = value
    return resolve.resolve(nested, environment={}).config


def documents(prepared: Prepared, split: str = "train") -> list[Document]:
    """Every row of a prepared split, packed or not."""
    found = []
    for sequence in shards.read(Path(prepared.folder) / f"{split}.arrow").to_pylist():
        ends = list(itertools.accumulate(sequence["lengths"]))
        for end, length, answer, line in zip(
            ends, sequence["lengths"], sequence["answers"], sequence["lines"], strict=True
        ):
            part = slice(end - length, end)
            found.append(Document(sequence["input_ids"][part], sequence["mask"][part], answer, line))
    return found


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of builtin:tiny."""
    return Path(models.pin(configure().model, tmp_path_factory.mktemp("tiny")).folder)


@pytest.fixture
def prepare(tmp_path: Path, tiny: Path) -> Prepare:
    """Prepares rows, a file, or a folder, with the given keys of `data`, into this test's own folder."""

    def work(
        source: Path | list[Any], seed: int = 1, model: Path = tiny, method: str | None = "sft", **given: Any
    ) -> Prepared:
        place = write_rows(tmp_path / "rows.jsonl", source) if isinstance(source, list) else source
        settings = configure(data__source=str(place), **{f"data__{key}": value for key, value in given.items()}).data
        pinned = sources.locate(settings)
        chat_digest = models.pin(configure(model__name=str(model)).model, tmp_path).chat_digest
        asked = data.request(pinned, settings, seed, method, model, chat_digest, tmp_path, tmp_path / "beside")
        return data.prepare(asked)

    return work


@pytest.fixture(scope="session")
def make_plan(tiny: Path) -> MakePlan:
    """Makes a run's folder with its `plan.json`, as the steps before training do."""

    def make(runs_dir: Path, name: str, rows: list[Any], **given: Any) -> TrainingPlan:
        source = write_rows(runs_dir.parent / f"{name}.jsonl", rows)
        settings = {"model__name": str(tiny), "data__source": str(source), "data__max_length": 128, **given}
        run = runs.begin(configure(name=name, runs_dir=str(runs_dir), **settings))
        config = run.config
        pinned, model = sources.locate(config.data), models.pin(config.model, runs_dir)
        folders = (runs_dir, run.path / "data")
        asked = data.request(pinned, config.data, config.seed, config.train.method, tiny, model.chat_digest, *folders)
        prepared = data.prepare(asked)
        probes.write(config, tiny, run.path / "data" / probes.FILE)
        device = devices.Device("cpu", "the test's CPU", 2**33, 2e10)
        return fit.made(run.run_id, run.path, config, model, prepared, device)

    return make


ALONE = {"validation": "none", "test": "none"}
TURNS = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "It is 1."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "It is 2."},
    ]
}


def escaped(rows: list[Any]) -> list[str]:
    """Rows as lines whose characters are all ASCII, so that half a character can be written."""
    return [row if isinstance(row, str) else json.dumps(row) for row in rows]


def quarantine(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]


loaded = functools.cache(chats.load)


def text(tiny: Path, document: Document, trained: bool = False) -> str:
    """What a document says, or the part of it that is trained on."""
    ids = [token for token, mask in zip(document.ids, document.mask, strict=True) if mask or not trained]
    return loaded(tiny).tokenizer.decode(ids, skip_special_tokens=False)


def problems(
    *words: str, environment: dict[str, str] | None = None, file: dict[str, Any] | None = None
) -> list[Problem]:
    """What is said to be wrong."""
    with pytest.raises(ConfigError) as caught:
        resolve.resolve(layers.parse_words(words), environment or {}, file)
    return list(caught.value.problems)


def resolved(*words: str, environment: dict[str, str] | None = None, file: dict[str, Any] | None = None) -> Config:
    return resolve.resolve(layers.parse_words(words), environment or {}, file).config


def several(tmp_path: Path, tiny: Path, *places: Path, **given: Any) -> Prepared:
    """Prepare a list of sources."""
    named = [{"source": str(place)} for place in places]
    settings = configure(**{f"data__{key}": value for key, value in {"source": named, **ALONE, **given}.items()}).data
    folders = (tmp_path, tmp_path / "beside")
    return data.prepare(data.request(sources.locate(settings), settings, 1, "sft", tiny, "chat", *folders))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Makes a module of some lines. Returns its name, under which children find it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(code: str) -> str:
        (tmp_path / "program.py").write_text(textwrap.dedent(code))
        return "program"

    return make
