"""Preference pairs: the chosen answer becomes likelier than the rejected one, as every loss says it should."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import MakePlan
from trained import SIGNALLED, STEPS, Trained, attempt, undisturbed

from smollm3_ft.builtin.demo import FACTS
from smollm3_ft.fit import TrainingPlan

pytestmark = pytest.mark.process

APO = {
    **STEPS,
    "train__method": "dpo",
    "train__loss": "apo_zero",
    "train__beta": 0.1,
    "train__learning_rate": 3e-3,
    "train__max_steps": 45,
    "train__save_steps": 20,
    "train__eval_steps": 15,
    "train__logging_steps": 1,
}
QUESTIONS = ("What is the capital of {}?", "Name the capital of {}.", "{} has which capital?", "Capital of {}?")


def capitals() -> list[dict[str, str]]:
    """Of half of the demo's countries the capital, and one of the other half's; each asked in several ways."""
    return [
        {"prompt": question.format(country), "chosen": capital, "rejected": wrong}
        for question in QUESTIONS
        for (country, capital, *_), (_, wrong, *_) in zip(FACTS[:24], FACTS[24:], strict=True)
    ]


def killed(plan: TrainingPlan) -> Trained:
    """Killed at its first checkpoint."""
    return Trained(plan, [attempt(plan, "20", "checkpoint", "SIGKILL"), attempt(plan)])


@pytest.fixture(scope="module")
def runs_trained(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Trained]]:
    """Runs trained on pairs, two at a time."""
    folder = tmp_path_factory.mktemp("dpo")
    (folder / "signalled.py").write_text(SIGNALLED)
    lora = {"train__adapter": "lora", "train__loss": "sigmoid", "train__learning_rate": 1e-2, "train__max_steps": 8}
    planned = {"killed": (killed, {}), "whole": (undisturbed, {}), "lora": (undisturbed, lora)}
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as threads:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")  # two at a time
        futures = {
            name: threads.submit(work, make_plan(folder / "runs", name, capitals(), **{**APO, **given}))
            for name, (work, given) in planned.items()
        }
        yield {name: future.result() for name, future in futures.items()}


@pytest.fixture(scope="module")
def whole(runs_trained: dict[str, Trained]) -> Trained:
    return runs_trained["whole"]


def test_x(whole):
    for line in whole.lines:
        print(line)
    assert 0


def test_y(runs_trained):
    for line in runs_trained["lora"].lines:
        print(line)
    print(runs_trained["killed"].ends)
    assert runs_trained["killed"].told("train", "eval") == runs_trained["whole"].told("train", "eval")
    assert 0
