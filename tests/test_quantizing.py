"""Quantized variants load where they lie, hold no pickle, and are scored against the model that they are made of."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MakePlan, facts
from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig

from smollm3_ft import (
    comparison,
    evaluation,
    files,
    fit,
    identity,
    pages,
    predictions,
    quantizing,
    records,
    runs,
    variants,
)
from smollm3_ft.config import Variant
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.runs import Run
from tasks import evaluating

pytestmark = pytest.mark.process


def told(line: str) -> None:
    raise AssertionError(f"a process says {line!r}")


@pytest.fixture(scope="module")
def plan(make_plan: MakePlan, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    """A run as training leaves it, with the base model as the trained one, and both variants of it."""
    kinds = {"publish__quantize": ["int8", "int4"]}
    made = make_plan(tmp_path_factory.mktemp("quantizing") / "runs", "a", facts(40), data__test=8, **kinds)
    folder = Path(made.folder)
    shutil.copytree(tiny, folder / "model", ignore=shutil.ignore_patterns("record.json"))
    digest = files.digest_of((folder / "model").glob("*.safetensors"))
    records.write(folder / fit.TRAINED, fit.mark(made), {"model": digest}, folder / "model")
    variants.made(made, "int8", told)
    quantizing.write(made, "int4", folder / "model" / "int4")
    return made


def with_int8(plan: TrainingPlan) -> Run:
    """The run, of which int8 alone is asked for."""
    run = runs.read(Path(plan.folder))
    publish = run.config.publish.model_copy(update={"quantize": ("int8",)})
    return run.model_copy(update={"config": run.config.model_copy(update={"publish": publish})})


def logits(plan: TrainingPlan, kind: str = "") -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(Path(plan.folder) / "model", subfolder=kind, dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(6, 70).reshape(2, 32)).logits
    return found


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_variant_answers_from_its_subfolder(plan: TrainingPlan, kind: str) -> None:
    """With the chat template and the end of turn of the model, and the embeddings as they were, tied to the head."""
    place = Path(plan.folder) / "model"
    model, whole = (AutoModelForCausalLM.from_pretrained(place, subfolder=name) for name in (kind, ""))
    tokenizer = AutoTokenizer.from_pretrained(place, subfolder=kind)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "One?"}], add_generation_prompt=True)["input_ids"]
    assert 0 < len(evaluation.generate(model, tokenizer, [ids], 5)[0]) <= 5
    assert model.generation_config.eos_token_id == whole.generation_config.eos_token_id
    assert torch.equal(model.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ in ("Int8Tensor", "IntxUnpackedToInt8Tensor")


def test_fewer_bits_lose_more(plan: TrainingPlan) -> None:
    """Both are near the model that they are made of, int8 nearer than int4."""
    whole = logits(plan)
    int8, int4 = (
        float((logits(plan, kind) - whole).square().mean() / whole.square().mean()) for kind in ("int8", "int4")
    )
    assert 0 < int8 < 1e-3 < int4 < 0.3


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_variant_is_whole_and_holds_no_pickle(plan: TrainingPlan, kind: str) -> None:
    """Weights, configurations, tokenizer and chat template, and no folder of this machine in any of them."""
    place = Path(plan.folder) / "model" / kind
    names = {path.name for path in place.iterdir()}
    assert names == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert not any(str(plan.folder).encode() in path.read_bytes() for path in place.iterdir())
    assert (place / "model.safetensors").stat().st_size < 0.5 * (place.parent / "model.safetensors").stat().st_size


def test_a_variant_is_made_once(plan: TrainingPlan) -> None:
    """While it is as it was made; altered, it is no variant any more."""
    weights = variants.folder(plan, "int8") / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert variants.made(plan, "int8", told) == {"bytes": weights.stat().st_size, "model": files.digest_of([weights])}
    assert weights.stat().st_mtime_ns == before
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    assert variants.there(plan, "int8") is None
    weights.write_bytes(content)
    assert variants.there(plan, "int8") is not None


def test_what_a_gpu_packs_is_written_in_its_configuration() -> None:
    """On CUDA two weights of 4 bits share a byte, as torch's kernel takes them in bfloat16. Never run on a GPU here."""
    how = TorchAoConfig(quantizing.scheme("int4", "cuda", "bfloat16"))
    again = TorchAoConfig.from_dict(json.loads(json.dumps(how.to_dict())))
    assert again.quant_type == how.quant_type
    assert again.quant_type.int4_packing_format == "tile_packed_to_4d"
    assert quantizing.scheme("int4", "cuda", "float32") == quantizing.scheme("int4", "cpu", "float32")


def test_what_variants_lose_is_in_the_evaluation(plan: TrainingPlan) -> None:
    """Each is loaded from the disk and scored as the model was, on the same rows; one not asked for goes. That the run
    was trained and evaluated by other code is in nobody's way."""
    one = with_int8(plan)
    run, mark = (
        runs.read(one.path),
        evaluating._evaluation_mark(plan, files.read_json(one.path / fit.TRAINED)["values"]["model"]),
    )
    runs.set_mark(run, "evaluate tuned", "of another day")
    fit.write(run.path / "plan.json", plan.model_copy(update={"code": "0" * 32}))
    scores = evaluation.evaluate(plan, run.path / "model")
    place = run.path.parent / evaluating.EVALUATED / mark
    files.write_json(place / "scores.json", scores)
    records.write(place / records.RECORD, mark, {}, place)
    files.write_json(run.path / "evaluation.json", {"rows": 8, "quantized": {"int4": {}}})
    evaluating.complete_variants(one, plan)
    said = files.read_json(run.path / "evaluation.json")
    assert list(said["quantized"]) == ["int8"]
    int8 = said["quantized"]["int8"]
    assert int8["bytes"] == (variants.folder(plan, "int8") / "model.safetensors").stat().st_size
    loss = int8["difference"]["loss"]
    assert loss["low"] <= loss["value"] <= loss["high"]
    assert abs(int8["difference"]["loss"]["value"]) < 0.05
    assert int8["loss"]["value"] == pytest.approx(comparison.lost(scores, scores, 0)["loss"]["value"], abs=0.05)
    assert [row["name"] for row in pages.variants(said)][:2] == ["loss", "perplexity"]
    assert not variants.folder(plan, "int4").exists()


def test_a_variant_of_older_code_stands(plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its figures: what was published of a run is not made anew because the code is."""
    one, weights = with_int8(plan), variants.folder(plan, "int8") / "model.safetensors"
    variants.made(plan, "int8", told)
    files.write_json(one.path / "evaluation.json", {"rows": 8, "quantized": {"int8": {"bytes": 1}, "int4": {}}})
    monkeypatch.setattr(identity, "code", lambda *_: "of today")
    before = weights.stat().st_mtime_ns
    evaluating.complete_variants(one, plan)
    assert files.read_json(one.path / "evaluation.json")["quantized"] == {"int8": {"bytes": 1}}
    assert weights.stat().st_mtime_ns == before


def test_a_model_is_as_good_as_itself() -> None:
    """The difference to the model itself is nothing; without held-out rows nothing is claimed."""
    scores = {"rows": [{"loss": 2.0 * n, "tokens": 4, "correct": 1} for n in range(1, 9)], "answers": []}
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert comparison.lost(scores, scores, 1)["difference"]["loss"] == nothing
    assert comparison.lost({"rows": [], "answers": []}, {"rows": [], "answers": []}, 1) == {}


@pytest.mark.parametrize(("kinds", "said"), [(("int8",), None), (("int8", "int4"), "has 100 inputs; use \\[int8\\]")])
def test_a_shape_that_does_not_divide_is_said(plan: TrainingPlan, kinds: tuple[Variant, ...], said: str | None) -> None:
    """Before anything is spent, in a line; int8 takes every shape."""
    uneven = plan.model.model_copy(update={"intermediate": 100})
    if said is None:
        variants.check(kinds, uneven)
    else:
        with pytest.raises(ConfigError, match=said):
            variants.check(kinds, uneven)


def test_without_torchao_it_is_said(plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; who asks for no variant needs it not."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"publish\.quantize: .*torchao.*make setup EXTRAS=quantize"):
        variants.check(("int8",), plan.model)
    variants.check((), plan.model)


def test_another_device_is_refused(plan: TrainingPlan, tmp_path: Path) -> None:
    """Weights are packed for the device that multiplies them: in a line, and before a process is started."""
    with pytest.raises(ConfigError, match=r"trained on .*; do this on a machine that has one"):
        variants.make(plan.model_copy(update={"device": "cuda"}), "int8", tmp_path / "int8", told)


def test_variants_count_on_the_disk(plan: TrainingPlan) -> None:
    """The plan's disk has room for what they take."""
    taken = sum((variants.folder(plan, kind) / "model.safetensors").stat().st_size for kind in ("int8",))
    assert taken <= predictions.variants(plan.config, plan.model) / 2
    none = plan.config.model_copy(update={"publish": plan.config.publish.model_copy(update={"quantize": None})})
    assert predictions.variants(none, plan.model) == 0
