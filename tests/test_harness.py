"""lm-eval asks base and tuned model, also tasks of one's own, without the network."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import MakePlan, configure, facts, problems, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from smollm3_ft import chat, files, harness, processes, records, resolve, runs
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan
from tasks import evaluating
from tasks.evaluating import Evaluated

CHOICES = ["Paris", "Lima", "Rome", "Madrid"]
ROWS = [{"question": f"Which is number {n}?", "choices": CHOICES, "answer": n % 4} for n in range(9)]
TASK = {
    "task": "capitals",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task's file, with its rows beside it."""
    folder = tmp_path_factory.mktemp("task")
    write_rows(folder / "rows.jsonl", ROWS)
    files.write(folder / "capitals.yaml", yaml.safe_dump(TASK))
    return folder / "capitals.yaml"


@pytest.fixture(scope="module")
def plan(make_plan: MakePlan, task: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    given: dict[str, Any] = {"evaluate__harness": [str(task)], "evaluate__general": "none", "evaluate__samples": 0}
    return make_plan(tmp_path_factory.mktemp("harness") / "runs", "a", facts(60), **given)


@pytest.fixture(scope="module")
def evaluated(plan: TrainingPlan, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """The base model scored and asked, as the step does it, where everything else is written elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        return evaluating._evaluate(plan, "base", "scores", "standard")


@pytest.mark.process
def test_a_task_of_ones_own_is_asked_without_the_network(evaluated: Evaluated, plan: TrainingPlan, tiny: Path) -> None:
    """Its accuracy is that of a plain computation: the likeliest choice behind the chat template's prompt."""
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny).eval()
    right = [_likeliest(model, tokenizer, row["question"]) == row["answer"] for row in ROWS]
    share = sum(right) / len(right)
    assert evaluated.standard is not None
    error = math.sqrt(share * (1 - share) / (len(right) - 1))
    found = harness.read(Path(evaluated.standard))
    assert found == {"capitals": pytest.approx({"acc": share, "acc_stderr": error})}


def _likeliest(model: Any, tokenizer: Any, question: str) -> int:
    turn = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True, enable_thinking=False, strftime_now=chat.TODAY.strftime
    )
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    found = []
    for choice in CHOICES:
        ids = before + tokenizer(choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            likely = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        found.append(float(likely.gather(1, torch.tensor(ids[1:])[:, None])[len(before) - 1 :].sum()))
    return found.index(max(found))


@pytest.mark.process
def test_nothing_is_written_outside(evaluated: Evaluated, task: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither in the caches of this machine nor beside the task; the result is there as a whole."""
    assert evaluated.standard is not None
    folder = Path(evaluated.standard)
    home = tmp_path_factory.getbasetemp() / "home"
    assert [path for path in home.rglob("*") if "capital" in path.name or "json" in path.name] == []
    assert sorted(path.name for path in task.parent.iterdir()) == ["capitals.yaml", "rows.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == [harness.RESULT, records.RECORD]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["scores", "standard"]


@pytest.mark.process
def test_what_was_asked_is_not_asked_again(
    evaluated: Evaluated, plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By no run of the same model, tasks and settings; with a file of it gone it is."""
    monkeypatch.setattr(processes, "run", lambda *_, **__: pytest.fail("a process was started"))
    run = runs.read(Path(plan.folder))
    assert evaluating._evaluate(plan, "base", "scores", "standard") == evaluated
    assert evaluating.found(run, "scores", "standard", done=False) == evaluated
    assert evaluating.found(run, "scores", "another", done=False) is None


def test_another_task_is_another_fingerprint(task: Path, tmp_path: Path) -> None:
    """Also where only a row beside the task's file differs."""
    files.write(tmp_path / "capitals.yaml", task.read_text())
    write_rows(tmp_path / "rows.jsonl", ROWS)
    here = str(tmp_path / "capitals.yaml")
    before = harness.fingerprint([here])
    assert harness.fingerprint([here]) == before
    write_rows(tmp_path / "rows.jsonl", ROWS[1:])
    assert len({before, harness.fingerprint([here]), harness.fingerprint([here, "arc_easy"])}) == 3


def test_groups_and_filters() -> None:
    """A group that has figures stands for its parts, one that has none for nothing; a filter is a part of the name."""
    results = {
        "whole": {"alias": "whole", "acc,none": 0.5, "acc_stderr,none": 0.125, "sample_len": 4},
        "part": {"acc,none": 0.25},
        "loose": {"exact_match,strict-match": 1, "exact_match_stderr,strict-match": "N/A"},
        "heading": {"alias": "heading"},
    }
    parts = {"whole": ["part"], "heading": ["loose"]}
    assert harness.figures({"results": results, "group_subtasks": parts}) == {
        "whole": {"acc": 0.5, "acc_stderr": 0.125},
        "loose": {"exact_match_strict-match": 1.0},
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("arc_esy", "lm-eval has no task arc_esy; did you mean arc_easy?"),
        ("/nowhere/task.yaml", "/nowhere/task.yaml cannot be read (No such file or directory)"),
        ("rows.yaml", "rows.yaml describes no task; it needs a line `task: NAME`"),
    ],
)
def test_a_task_that_is_none_is_named(tmp_path: Path, asked: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is spent, with the nearest name; lm-eval's own tasks, groups and tags are known."""
    monkeypatch.chdir(tmp_path)
    Path("rows.yaml").write_text(json.dumps(ROWS))
    with pytest.raises(ConfigError) as caught:
        harness.check(configure(evaluate__harness=["arc_easy", "mmlu", "ai2_arc", "gsm8k", asked]))
    assert [said in str(problem) for problem in caught.value.problems] == [True]


def test_without_lm_eval_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, and only where it is asked for."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    harness.check(configure())
    with pytest.raises(ConfigError, match="not installed; install it: make setup EXTRAS=eval"):
        harness.check(configure(evaluate__harness=["arc_easy"]))


def test_a_file_is_read_where_it_may_be(task: Path, tmp_path: Path) -> None:
    """A task's file is code: where what may be read is limited, running code has to be permitted as well."""
    word = f"evaluate.harness=[{task}]"
    (outside, code) = problems(word, environment={"SMOLLM3_FT_READ_ROOTS": str(tmp_path)})
    assert "may not be read here" in outside.what
    assert "could run code" in code.what
    permitted = {"SMOLLM3_FT_READ_ROOTS": str(task.parent), "SMOLLM3_FT_ALLOW_REMOTE_CODE": "1"}
    given = {"evaluate": {"harness": [str(task)]}}
    assert resolve.resolve(given, permitted).config.evaluate.harness == (str(task),)
