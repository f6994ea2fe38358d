"""The house's rule: deployments → flows → tasks → smollm3_ft, and torch only where a model is touched."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smollm3_ft import data, unneeded

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"smollm3_ft": {"prefect", "flows", "tasks"}, "tasks": {"flows"}}
TOUCH_MODELS = {
    *("attention", "batches", "chatapp", "cudatry", "dpo", "evaluation", "firstcall", "losses", "memory"),
    *(
        "pairs",
        "progress",
        "quantizing",
        "ranks",
        "reference",
        "scoring",
        "sft",
        "trainers",
        "training",
        "trial",
        "watching",
    ),
}
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate"}


def imported(path: Path, whole: bool) -> set[str]:
    """Top-level names of the packages that a file imports, anywhere in it or when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if whole else iter(tree.body)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_downward_only(package: str) -> None:
    """No module of a lower package imports a higher one, not even inside a function."""
    for path in (ROOT / package).rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path, whole=True)}
        assert not roots & FORBIDDEN[package], path


def test_only_modules_that_touch_a_model_import_torch() -> None:
    """Everything else of the library, the tasks and the flows can be imported without torch."""
    for package in ("smollm3_ft", "tasks", "flows"):
        for path in (ROOT / package).rglob("*.py"):
            if path.stem in TOUCH_MODELS and package == "smollm3_ft":
                continue
            names = imported(path, whole=False)
            assert not {name.split(".")[0] for name in names} & HEAVY, path
            touching = {f"smollm3_ft.{module}" for module in TOUCH_MODELS}
            assert not names & touching, path


@pytest.mark.parametrize("module", ["evaluation", "publishing", "quantizing", "training", "trial"])
def test_processes_that_import_torch_first_put_off_garbage_collection(module: str) -> None:
    """It would take a fifth of their start: nothing that is imported is garbage."""
    _docstring, _future, first, *_ = ast.parse((ROOT / "smollm3_ft" / f"{module}.py").read_text()).body
    assert isinstance(first, ast.If)
    assert ast.unparse(first.test) == "__name__ == '__main__'"
    before = [ast.unparse(one) for one in first.body][: [*map(ast.unparse, first.body)].index("gc.disable()")]
    assert set(before) <= {"import gc", "import sys", "from smollm3_ft import unneeded"}


@pytest.mark.parametrize(("adapter", "model"), [("qlora", {}), ("none", {"quantization_config": {}}), ("none", {})])
def test_libraries_of_quantized_models_are_kept_where_one_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, adapter: str, model: dict[str, Any]
) -> None:
    """A training by QLoRA and whoever loads a quantized model find them; what no process needs, none finds."""
    (tmp_path / "config.json").write_text(json.dumps(model))
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"config": {"train": {"adapter": adapter}}, "weights": str(tmp_path)}))
    modules: dict[str, None] = {}
    monkeypatch.setattr(unneeded, "sys", SimpleNamespace(modules=modules))
    unneeded.leave_out([str(plan), "base", str(tmp_path / "result")])
    quantized = adapter == "qlora" or model
    assert set(modules) == {"scipy", "sklearn", *(() if quantized else ("bitsandbytes", "torchao"))}


# What does not make prepared data: messages, files, where rows come from (by their digest), who does the work.
BESIDE_THE_DATA = {"config", "errors", "files", "hub", "workers"}


def test_the_fingerprint_of_data_is_of_all_code_that_makes_it() -> None:
    """Every module that preparing data imports, however far down, is in its fingerprint, or said to be beside it."""
    found, new = set[str](), {"assembly"}
    while new:
        module = new.pop()
        found.add(module)
        names = imported(ROOT / "smollm3_ft" / f"{module}.py", whole=True)
        ours = {name.split(".")[1] for name in names if name.startswith("smollm3_ft.")}
        new |= {name for name in ours if (ROOT / "smollm3_ft" / f"{name}.py").is_file()} - found - BESIDE_THE_DATA
    assert found | {"data"} == set(data.MODULES)
