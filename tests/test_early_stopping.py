"""With a patience, a training ends when validation gets worse, and its model is the best one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import MakePlan, facts
from trained import EARLY, SIGNALLED, STEPS, Trained, killed_when_best, undisturbed

from smollm3_ft import checkpoints
from smollm3_ft.errors import ProcessDied

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def runs_trained(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Trained]]:
    """The same training undisturbed and killed, side by side."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "signalled.py").write_text(SIGNALLED)
    planned = {"early": undisturbed, "early killed": killed_when_best}
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as threads:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")  # two at a time
        futures = {
            name: threads.submit(
                work, make_plan(folder / "runs", name.replace(" ", "-"), facts(60), **{**STEPS, **EARLY})
            )
            for name, work in planned.items()
        }
        yield {name: future.result() for name, future in futures.items()}


def validations(trained: Trained) -> dict[int, float]:
    """The loss of each validation by its step."""
    return {line["step"]: line["values"]["loss"] for line in trained.lines if line["kind"] == "eval"}


def test_it_stops_when_validation_gets_worse(runs_trained: dict[str, Trained]) -> None:
    """With a patience of two it ends at the second validation without a better one."""
    losses = validations(runs_trained["early"])
    best = min(losses, key=lambda step: losses[step])
    assert max(losses) == best + 6 < 60


def test_the_best_model_is_kept(runs_trained: dict[str, Trained]) -> None:
    """With a patience the model is that of the best validation, which stays among the checkpoints."""
    early = runs_trained["early"]
    losses = validations(early)
    best = early.folder / "checkpoints" / f"checkpoint-{min(losses, key=lambda step: losses[step])}"
    assert checkpoints.is_undamaged(best)
    assert early.model == (best / "model.safetensors").read_bytes()


def test_an_early_stop_is_the_same_again(runs_trained: dict[str, Trained]) -> None:
    """Killed at validations before they were saved, it stops at the same step with the same model."""
    early, killed = runs_trained["early"], runs_trained["early killed"]
    assert [type(end) for end in killed.ends] == [ProcessDied, ProcessDied, type(None)]
    assert killed.told("train", "eval") == early.told("train", "eval")
    assert killed.model == early.model
