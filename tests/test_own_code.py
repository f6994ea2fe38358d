"""A model that is code of its own repository: run where that was asked for and is permitted, and nowhere else."""

import shutil
from pathlib import Path

import pytest
from conftest import MakePlan, facts
from hub import hub
from test_models import changed
from transformers import dynamic_module_utils

from smollm3_ft import evaluation, models, trainers, training
from smollm3_ft.config import Model
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan

CODE = """
from transformers import SmolLM3Config, SmolLM3ForCausalLM

class MineConfig(SmolLM3Config):
    model_type = "mine"

class MineForCausalLM(SmolLM3ForCausalLM):
    config_class = MineConfig
"""
NAMES = {"AutoConfig": "modeling_mine.MineConfig", "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
FETCH = """
import json, sys
from pathlib import Path
from smollm3_ft import models
from smollm3_ft.config import Model
plan = models.pin(Model(name="tester/mine", trust_remote_code=True), Path(sys.argv[1]))
print(json.dumps([plan.code, sorted(path.name for path in models.fetch(plan).glob("*.py"))]))
"""


@pytest.fixture(scope="module")
def mine(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model as one of its own code."""
    settings = {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": NAMES}
    folder = changed(tiny, tmp_path_factory.mktemp("own") / "mine", **settings)
    (folder / "modeling_mine.py").write_text(CODE)
    return folder


@pytest.fixture(scope="module")
def plan(make_plan: MakePlan, mine: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    """A run on that model, by someone who asked for its code."""
    made = make_plan(tmp_path_factory.mktemp("trusted") / "runs", "a", facts(30))
    model = models.pin(Model(name=str(mine), trust_remote_code=True), Path(made.folder).parent)
    return made.model_copy(update={"model": model, "weights": str(mine)})


def test_its_code_is_run_and_comes_with_the_trained_model(
    plan: TrainingPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained is of its class, and so is what is loaded from the run's folder."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    model = trainers.load_model(plan)
    training._save_model(model, plan, Path(plan.folder))
    again, _ = evaluation.load(Path(plan.folder) / "model", "float32", "cpu", code=plan.model.code)
    assert [type(one).__name__ for one in (model, again)] == ["MineForCausalLM"] * 2
    with pytest.raises(ValueError, match="custom code"):
        evaluation.load(Path(plan.folder) / "model", "float32", "cpu")


def test_it_is_not_run_unless_that_is_asked_for(mine: Path, tmp_path: Path) -> None:
    """Before anything is spent, and with the key that asks for it."""
    with pytest.raises(
        ConfigError, match=r"model.trust_remote_code: .*mine is a model of its own code; look at that code"
    ):
        models.pin(Model(name=str(mine)), tmp_path)


def test_a_model_that_nobody_knows_is_refused(tiny: Path, tmp_path: Path) -> None:
    """One that neither transformers has nor its repository."""
    folder = changed(tiny, tmp_path / "odd", model_type="odd")
    with pytest.raises(ConfigError, match=r"model.name: transformers has no model of the kind odd; name a SmolLM3"):
        models.pin(Model(name=str(folder), trust_remote_code=True), tmp_path)


def test_other_code_is_another_model(mine: Path, plan: TrainingPlan, tmp_path: Path) -> None:
    """Nothing that was found of the one is reused for the other."""
    other = shutil.copytree(mine, tmp_path / "mine")
    with (other / "modeling_mine.py").open("a") as file:
        file.write("\n")
    assert models.pin(Model(name=str(other), trust_remote_code=True), tmp_path).digest != plan.model.digest


def test_it_is_fetched_with_its_code(mine: Path, tmp_path: Path) -> None:
    """From the Hub, at the commit that was pinned."""
    with hub() as server:
        server.add("model", "tester/mine", mine)
        assert server.ask(FETCH, tmp_path / "home", str(tmp_path)) == [True, ["modeling_mine.py"]]
