"""What is published loads as its card says, and no file of it tells of this machine or of a row."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import peft
import pytest
import torch
import transformers
import yaml
from conftest import MakePlan
from hub import hub
from trained import finished

from smollm3_ft import (
    adapters,
    card,
    devices,
    evaluation,
    files,
    fit,
    modelfolder,
    processes,
    publishing,
    records,
    shards,
    trainers,
    training,
)
from smollm3_ft.errors import PublishError
from smollm3_ft.fit import TrainingPlan

pytestmark = [
    pytest.mark.process,
    # peft asks transformers by a name that is going out of use
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
]
LORA = {"train__adapter": "lora", "train__lora": {"r": 4}}
# Runs the code of each card as it is printed, says what the model was and what it answered, and fetches a base model.
RUN = """
import contextlib, io, json, re, sys
from pathlib import Path
from smollm3_ft import hub

told = {"base": sorted(path.name for path in hub.fetch_model("tester/base", sys.argv[1], weights=True).iterdir())}
for name in sys.argv[2:]:
    code = re.search(r"```python\\n(.*?)```", Path(name, "README.md").read_text(), re.DOTALL)[1]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, within := {})
    told[Path(name).name] = [type(within["model"]).__name__, said.getvalue().strip()]
print(json.dumps(told))
"""


class Published(NamedTuple):
    """The folder of a run of LoRA on a model of the Hub, for each `publish.adapter`, and the model's own answer."""

    plan: TrainingPlan
    merge: Path
    keep: Path
    both: Path
    told: dict[str, Any]


def on_hub(plan: TrainingPlan, commit: str) -> TrainingPlan:
    """The plan of the same training, had its base model come from the Hub."""
    named = plan.config.model.model_copy(update={"name": "tester/base"})
    model = plan.model.model_copy(update={"kind": "hub", "name": "tester/base", "revision": commit})
    return plan.model_copy(update={"model": model, "config": plan.config.model_copy(update={"model": named})})


def with_publish(plan: TrainingPlan, **given: Any) -> TrainingPlan:
    publish = plan.config.publish.model_copy(update=given)
    return plan.model_copy(update={"config": plan.config.model_copy(update={"publish": publish})})


def answer(model: Any, tokenizer: Any) -> str:
    asked = [{"role": "user", "content": "Hello"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    return str(tokenizer.decode(evaluation.generate(model, tokenizer, [ids], 256)[0], skip_special_tokens=True)).strip()


@pytest.fixture(scope="module")
def lora(make_plan: MakePlan, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    """A run whose adapter and merged model were saved as its training saves them."""
    plan = finished(make_plan, tiny, tmp_path_factory.mktemp("adapter") / "runs", **LORA)
    folder = Path(plan.folder)
    shutil.rmtree(folder / "model")
    torch.manual_seed(0)
    model = peft.get_peft_model(trainers.load_model(plan), trainers.lora(plan))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    plan = on_hub(plan, "c" * 40)
    training._save_model(model, plan, folder)
    done = files.read_json(folder / fit.TRAINED)["values"]
    done["adapter"] = files.digest_of((folder / "adapter").glob("*.safetensors"))
    records.write(folder / fit.TRAINED, fit.mark(plan), done, folder / "model")
    return plan


@pytest.fixture(scope="module")
def published(lora: TrainingPlan, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    base, places = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("published")
    shutil.copytree(tiny, base, dirs_exist_ok=True, ignore=shutil.ignore_patterns("record.json"))
    (base / "README.md").write_text("A card.\n")
    (base / "else.txt").write_text("Nothing that is needed.\n")
    with hub() as server:
        commit = server.add("model", "tester/base", base)
        server.add("model", "tester/base", {"later.txt": b"A later commit.\n"})
        plan = on_hub(lora, commit)
        for kind in ("merge", "keep", "both"):
            asked = with_publish(plan, target="hub", repo=f"tester/{kind}", adapter=kind)
            shutil.copytree(modelfolder.complete(asked, f"tester/{kind}"), places / kind)
            server.add("model", f"tester/{kind}", places / kind)
        folders = [places / kind for kind in ("merge", "keep", "both")]
        told = server.ask(RUN, tmp_path_factory.mktemp("home"), commit, *map(str, folders))
        yield Published(plan, *folders, told)


def test_the_code_in_a_card_runs_as_it_is_printed(published: Published) -> None:
    """From the Hub, the merged model and the adapter on its base say what the model on disk says."""
    said = answer(*evaluation.load(Path(published.plan.folder) / "model", "float32", "cpu"))
    assert {kind: published.told[kind] for kind in ("merge", "keep", "both")} == {
        "merge": ["SmolLM3ForCausalLM", said],
        "keep": ["PeftModelForCausalLM", said],
        "both": ["SmolLM3ForCausalLM", said],
    }


def test_a_base_model_comes_with_its_card(published: Published, tiny: Path) -> None:
    """Which has its licence; and with nothing that is not needed."""
    assert set(published.told["base"]) == {path.name for path in tiny.iterdir()} - {"record.json"} | {"README.md"}


def test_a_merged_adapter_has_the_bytes_of_the_model(published: Published, tiny: Path) -> None:
    """What was kept of the training, merged into the base model again, is the model that was evaluated."""
    model, _ = evaluation.load(published.keep, "float32", "cpu", base=tiny)
    whole = transformers.AutoModelForCausalLM.from_pretrained(published.merge).state_dict()
    assert all(torch.equal(weight, whole[name]) for name, weight in model.state_dict().items())


def test_an_adapter_names_its_base_on_the_hub(lora: TrainingPlan) -> None:
    """By its id and the commit that it was trained on."""
    told = json.loads((Path(lora.folder) / "adapter" / adapters.CONFIG).read_text())
    assert (told["base_model_name_or_path"], told["revision"]) == ("tester/base", "c" * 40)


def test_what_is_kept(published: Published) -> None:
    """An adapter alone has what a model has but for weights and configuration; both have it in a folder of its own."""
    beside = {"README.md", "evaluation.json", "ledger.json", "finetune.yaml", card.CURVE}
    spoken = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    adapter = {adapters.CONFIG, "adapter_model.safetensors"}
    model = {"config.json", "model.safetensors"}
    assert {path.name for path in published.keep.iterdir()} == beside | spoken | adapter
    assert {path.name for path in published.merge.iterdir()} == beside | spoken | model
    assert {path.name for path in published.both.iterdir()} == beside | spoken | model | {"adapter"}
    assert {path.name for path in (published.both / "adapter").iterdir()} == adapter


def test_no_file_tells_of_this_machine(
    published: Published, make_plan: MakePlan, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither a folder of it, nor a text of a row, is in any byte of what is published; and there is no pickle."""
    foreign = (str(tmp_path_factory.getbasetemp()), str(Path.home()), str(Path.cwd()), "a private question")
    local = modelfolder.complete(finished(make_plan, tiny, tmp_path_factory.mktemp("local") / "runs"))
    for folder in (local, published.merge, published.keep, published.both):
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not [word for word in foreign if word.encode() in content], path
            assert path.suffix not in (".bin", ".pt", ".pkl"), path
            assert b"local_files_only" not in content, path


def test_what_was_both_is_merged_alone_again(lora: TrainingPlan) -> None:
    """Another publication leaves nothing of a former one; completed twice, the folder is the same."""
    inside = Path(lora.folder) / "model" / "adapter"
    modelfolder.complete(with_publish(lora, adapter="both"))
    assert inside.is_dir()
    folder = modelfolder.complete(lora)
    assert not inside.exists()
    before = {path.name: files.sha256(path) for path in folder.iterdir()}
    assert {path.name: files.sha256(path) for path in modelfolder.complete(lora).iterdir()} == before


def test_an_adapter_alone_is_verified_on_its_base(
    lora: TrainingPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has to answer what the merged model answered when it was evaluated; what another would say does not pass."""
    plan = with_publish(lora.model_copy(update={"device_name": devices.detect().name}), adapter="keep")
    path, folder = Path(lora.folder) / "plan.json", modelfolder.complete(plan)
    before = path.read_bytes()
    fit.write(path, plan)
    record = {"folder": "adapter", "files": {one.name: files.sha256(one) for one in folder.iterdir()}}
    files.write_json(Path(lora.folder) / publishing.PUBLISHED, record)
    rows = shards.read(Path(plan.prepared.folder) / "test.arrow").to_pylist()
    said = evaluation.answer(*evaluation.load(Path(lora.folder) / "model", "float32", "cpu"), rows, 10)
    monkeypatch.setattr(processes, "end_with_parent", lambda: None)
    monkeypatch.setattr(sys, "argv", ["publishing", str(path), str(tmp_path), str(folder)])
    files.write_json(tmp_path / "scores.json", {"answers": said})
    publishing.main()
    files.write_json(tmp_path / "scores.json", {"answers": [{**one, "answer": "something else"} for one in said]})
    with pytest.raises(
        PublishError, match=r"^the published model answers held-out row 0 otherwise than the trained one"
    ):
        publishing.main()
    path.write_bytes(before)


def test_an_adapter_that_is_not_as_it_was_trained(lora: TrainingPlan) -> None:
    """It is not published."""
    path = Path(lora.folder) / "adapter" / "adapter_model.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(PublishError, match=r"the adapter of a is not in .* as it was trained"):
            modelfolder.complete(with_publish(lora, adapter="keep"))
    finally:
        path.write_bytes(content)


def test_the_configuration_is_one_that_can_be_run(published: Published) -> None:
    """It names models and data as others know them, and has neither folders, nor names, nor targets."""
    told = yaml.safe_load((published.merge / modelfolder.CONFIG).read_text())
    assert told["model"]["name"] == "tester/base"
    assert not {"runs_dir", "name", "monitor", "publish"} & set(told)


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A place on this machine is called by its last part, and numbered where another is called so."""
    places = [str(tmp_path / "a" / "rows.jsonl"), "owner/set", str(tmp_path / "b" / "rows.jsonl")]
    assert list(modelfolder.public_names(places).values()) == ["rows.jsonl", "owner/set", "rows.jsonl (2)"]


def test_places_of_leaks_and_figures_by_source_are_public(tmp_path: Path) -> None:
    """The ledger names a leaking row by its file and line; the evaluation names a source as the ledger does."""
    place = str(tmp_path / "rows.jsonl")
    leak = {"row": f"{place}:3", "held_out": "owner/set:train:4"}
    ledger = {"sources": [{"source": place, "rows": 1}], "leaks": {"exact": 1, "first": [leak]}}
    names = modelfolder.public_names([place])
    assert modelfolder.public_ledger(ledger, names) == {
        "sources": [{"source": "rows.jsonl", "rows": 1}],
        "leaks": {"exact": 1, "first": [{"row": "rows.jsonl:3", "held_out": "owner/set:train:4"}]},
    }
    found = {"by": {"source": {place: {"rows": 1}}}, "samples": ["a text"]}
    assert modelfolder.public_evaluation(found, names, samples=False) == {"by": {"source": {"rows.jsonl": {"rows": 1}}}}
    assert modelfolder.public_evaluation(found, names, samples=True)["samples"] == ["a text"]
