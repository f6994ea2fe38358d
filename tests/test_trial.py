"""What a training takes is tried before it begins, and its micro-batch is the largest that fits."""

import textwrap
from pathlib import Path

import pytest
from conftest import MakePlan

from smollm3_ft import devices, fit
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan

pytestmark = pytest.mark.process

# A machine with little memory, for the trial alone: what is allocated past it fails as it would there.
LIMITED = """
import resource, sys
if "smollm3_ft.trial" in sys.orig_argv:
    resource.setrlimit(resource.RLIMIT_DATA, (900 * 2**20,) * 2)
"""
LONG = [{"prompt": f"Say {n}.", "completion": f"{n} and so on " * 300} for n in range(24)]
GIVEN = {
    "data__max_length": 1024,
    "data__over_length": "truncate",
    "data__validation": 4,
    "data__test": "none",
    "train__batch_size": "auto",
    "train__effective_batch_size": 4,
}


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(LIMITED))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a thread's own heap counts as well


@pytest.fixture(scope="module")
def fitted(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    return make_plan(tmp_path_factory.mktemp("fitted") / "runs", "fitted", LONG, **GIVEN)


def test_what_was_tried_is_in_the_plan(fitted: TrainingPlan) -> None:
    """With room enough every sequence of a step is taken at once, and the plan says what was measured."""
    assert (fitted.settings.batch_size, fitted.settings.effective_batch_size) == (4, 4)
    assert fitted.predicted.measured
    assert 2**27 < fitted.predicted.memory_bytes < 2**33
    assert fitted.predicted.seconds > 0


def test_a_trial_leaves_nothing(fitted: TrainingPlan) -> None:
    """Neither a checkpoint nor a line of the journal comes from a trial."""
    assert sorted(path.name for path in Path(fitted.folder).iterdir()) == ["data", "plan.json", "run.json"]


def test_what_does_not_fit_is_made_smaller(make_plan: MakePlan, tmp_path: Path, limited: None) -> None:
    """Where the wanted batch runs out of memory, smaller ones are tried, and a step keeps its sequences."""
    settings = make_plan(tmp_path / "runs", "small", LONG, **GIVEN).settings
    assert settings.batch_size in (1, 2)
    assert settings.batch_size * settings.gradient_accumulation_steps == 4


def test_a_change_of_the_micro_batch_keeps_the_steps(fitted: TrainingPlan) -> None:
    """An unfinished run goes on with another micro-batch: the same sequences a step, the same number of steps."""
    train = fitted.config.train.model_copy(update={"batch_size": 2})
    again = fit.refitted(fitted, fitted.config.model_copy(update={"train": train}), devices.detect())
    settings = {"batch_size": 2, "gradient_accumulation_steps": 2}
    assert again.settings == fitted.settings.model_copy(update=settings)
    assert fit.read(Path(fitted.folder) / "plan.json") == again


def test_a_given_batch_that_does_not_divide_the_step(fitted: TrainingPlan) -> None:
    """A micro-batch with which the steps would not stay as they are is refused."""
    train = fitted.config.train.model_copy(update={"batch_size": 3})
    with pytest.raises(ConfigError, match="4 is not batch_size 3"):
        fit.refitted(fitted, fitted.config.model_copy(update={"train": train}), devices.detect())
