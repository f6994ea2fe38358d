"""With a patience, a training ends when validation gets worse, and its model is the best one."""

import pytest
from conftest import MakePlan, facts
from several import Job, in_turn, killed_at, write_programs
from trained import EARLY, STEPS, Trained

from smollm3_ft import checkpoints
from smollm3_ft.errors import ProcessDied

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def runs_trained(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """The same training undisturbed, and killed at its first two validations, before they were saved."""
    folder = tmp_path_factory.mktemp("early")
    write_programs(folder)
    early, killed = (make_plan(folder / "runs", name, facts(60), **{**STEPS, **EARLY}) for name in ("early", "killed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        ends = in_turn(folder, {"early": [Job(early, 1)], "early killed": killed_at(killed, "eval", 3, 6)})
    return {"early": Trained(early, ends["early"]), "early killed": Trained(killed, ends["early killed"])}


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
