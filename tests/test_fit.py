"""The plan of a training survives its file, and is used by the code that made it alone."""

import shutil
from pathlib import Path

import pytest
from conftest import MakePlan, facts

from smollm3_ft import fit, identity
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan


@pytest.fixture(scope="module")
def plan(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    return make_plan(tmp_path_factory.mktemp("fit") / "runs", "a", facts(10))


def test_a_plan_survives_its_file(plan: TrainingPlan) -> None:
    """plan.json holds the whole plan."""
    again = fit.read(Path(plan.folder) / "plan.json")
    assert again == plan
    assert fit.mark(again) == fit.mark(plan)


def test_a_plan_is_of_the_folder_where_it_lies(plan: TrainingPlan, tmp_path: Path) -> None:
    """A run that was moved goes on in its new place, as the same training."""
    moved = fit.read(Path(shutil.copytree(plan.folder, tmp_path / "moved")) / "plan.json")
    assert moved.folder == str(tmp_path / "moved")
    assert fit.mark(moved) == fit.mark(plan)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("{cut", "no plan of this version"), ('{"schema_version": 9}', "no plan of this")],
)
def test_a_plan_that_is_none(tmp_path: Path, content: str | None, said: str) -> None:
    """A plan that cannot be read is named, and how to get another."""
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rf"plan\.json: .*{said}.*start the run anew"):
        fit.read(path)


@pytest.mark.parametrize("name", ["code", "lock"])
def test_a_plan_of_other_code_is_refused(plan: TrainingPlan, name: str) -> None:
    """A plan made by other code or with other packages is not carried out."""
    with pytest.raises(ConfigError, match=f"{name} here is .*--accept-changes"):
        fit.check_made_here(plan.model_copy(update={name: "0" * 32}), [])


@pytest.mark.parametrize("name", ["code", "lock"])
def test_a_change_that_was_agreed_to_is_let_pass(plan: TrainingPlan, name: str) -> None:
    """Code and packages that were accepted since carry the plan out, and only those."""
    other = plan.model_copy(update={name: "0" * 32})
    fit.check_made_here(other, [{"code": identity.code(), "lock": identity.lock()}])
    with pytest.raises(ConfigError):
        fit.check_made_here(other, [{"code": "1" * 32, "lock": "1" * 32}])
