"""What a run tells of itself is what it is trained again from, and what came of it is set beside what came again."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import MakePlan, Prepare, configure, facts, write_rows
from hub import hub

from smollm3_ft import agreement, files, fit, records, reproduce, resolve, runs, sources
from smollm3_ft.errors import ConfigError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.journal import Journal
from smollm3_ft.plan import Estimate, Plan
from smollm3_ft.runs import Run

GIVEN: dict[str, Any] = {
    "data__format": "prompt_completion",
    "data__system_prompt": "Between us.",
    "evaluate__prompts": ["A secret?"],
    "evaluate__gate": {"min_improvement": 0.5, "not_worse_than": "another"},
    "monitor__dataset": "me/experiments",
    "publish__repo": "me/model",
    "compute__pool": "none",
}


def trained(make_plan: MakePlan, runs_dir: Path, name: str, weights: bytes = b"weights", **given: Any) -> TrainingPlan:
    """A run with all that a training leaves, but for the training."""
    plan = make_plan(runs_dir, name, facts(60), train__max_steps=4, **{"evaluate__general": "none", **given})
    run = runs.read(Path(plan.folder))
    nothing = Estimate(rows=None, tokens=None, settings=None, predicted=None, device="none")
    runs.save(run.model_copy(update={"plan": Plan(model=plan.model, sources=located(run), estimate=nothing)}))
    files.write(run.path / "model" / "model.safetensors", weights)
    records.write(run.path / fit.TRAINED, fit.mark(plan), {"final_loss": 1.5}, run.path / "model")
    return plan


def located(run: Run) -> tuple[sources.SourcePlan, ...]:
    return sources.locate(run.config.data)


@pytest.fixture(scope="module")
def told(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    """A trained run of a local file, with values that are nobody else's."""
    plan = trained(make_plan, tmp_path_factory.mktemp("told") / "runs", "mine", **GIVEN)
    tasks = ("arc_easy", "/mine/task.yaml")
    return with_keys(plan, data={"columns": {"a.b": "prompt"}}, evaluate={"harness": tasks})


def with_keys(plan: TrainingPlan, **sections: dict[str, Any]) -> TrainingPlan:
    """A plan with some keys of its configuration replaced."""
    update = {name: getattr(plan.config, name).model_copy(update=keys) for name, keys in sections.items()}
    return plan.model_copy(update={"config": plan.config.model_copy(update=update)})


def test_a_card_says_what_is_read_again(told: TrainingPlan) -> None:
    """The block in a card is read as it was told, a column's name with a dot included."""
    card = f"---\nlibrary_name: transformers\n---\n# Mine\n\n{reproduce.block(told, 'me/model')}\n\nMore.\n"
    assert "--from me/model trains the same again" in card
    assert reproduce.read(card, "card") == {**reproduce.public(told), "expected": reproduce.facts(told)}
    assert reproduce.public(told)["data"]["columns"] == {"a.b": "prompt"}
    assert reproduce.public(told)["train"]["learning_rate"] == told.settings.learning_rate


def test_a_card_tells_nothing_that_is_not_everybodys(told: TrainingPlan) -> None:
    """No folder, text, target, other run or file; of a local source its name and what is in it."""
    block = reproduce.block(told)
    words = (str(Path(told.folder).parent), "Between us", "secret", "me/", "another", "task.yaml", "pool")
    assert [word for word in words if word in block] == []
    assert "- arc_easy" in block
    assert f"local:mine.jsonl: {files.sha256(Path(str(told.config.data.source)))}" in block


def test_a_text_that_may_be_seen_is_told(told: TrainingPlan) -> None:
    """With `publish.samples`, the system prompt stands in the card; else its digest does."""
    hidden = f"local:{hashlib.sha256(b'Between us.').hexdigest()[:12]}"
    assert reproduce.public(told)["data"]["system_prompt"] == hidden
    open_to_all = with_keys(told, publish={"samples": True})
    assert reproduce.public(open_to_all)["data"]["system_prompt"] == "Between us."


def card_of(plan: TrainingPlan, folder: Path, **sections: Any) -> Path:
    """A card's folder, with sections of its block replaced."""
    values = yaml.safe_load(reproduce.BLOCK.search(reproduce.block(plan))[1])  # type: ignore[index]
    text = yaml.safe_dump({**values, **sections}, sort_keys=False)
    files.write(folder / "README.md", f"```yaml\n# {reproduce.COMMAND} README.md\n{text}```\n")
    return folder


def test_what_only_one_machine_has_is_asked_for(told: TrainingPlan, tmp_path: Path) -> None:
    """A card's local model, source and text are named, and taken where the command gives them."""
    card = card_of(told, tmp_path / "card")
    with pytest.raises(ConfigError) as caught:
        reproduce.find(str(card), tmp_path, {})
    assert [problem.where for problem in caught.value.problems] == ["model.name", "data.source", "data.system_prompt"]
    assert "data.source: is mine.jsonl in the card" in str(caught.value)
    here = str(write_rows(tmp_path / "here.jsonl", facts(60)))
    given = {"model": {"name": "builtin:tiny"}, "data": {"source": here, "system_prompt": "Between us."}}
    found = reproduce.find(str(card), tmp_path, given)
    config = resolve.resolve({}, {}, found.values).config
    assert (config.data.source, config.data.format) == (here, "prompt_completion")
    assert config.data.columns == {"a.b": "prompt"}
    assert found.name == "card"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"source": "builtin:demo"}, {}),
        ({"source": [{"source": "builtin:demo"}]}, {}),
        ({"source": "builtin:demo", "columns": {"q": "prompt"}}, {"columns": {"q": "prompt"}}),
        ({"max_length": 100}, {"format": "prompt_completion"}),
        ({"source": "mine.jsonl"}, {"format": "prompt_completion"}),
    ],
)
def test_another_source_is_read_as_itself(
    told: TrainingPlan, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], kept: dict[str, Any]
) -> None:
    """What was said of the run's own source, its columns and format say, holds for that one alone."""
    folder = Path(told.folder)
    monkeypatch.chdir(Path(str(told.config.data.source)).parent)
    values = resolve.resolve({}, {}, reproduce.find(str(folder), folder.parent, {"data": given}).values).config.data
    said = {"config": values.config, "split": values.split, "format": values.format, "columns": values.columns}
    assert {key: value for key, value in said.items() if value not in (None, "auto")} == kept


def test_neither_places_nor_targets_nor_code_are_taken_from_a_card(told: TrainingPlan, tmp_path: Path) -> None:
    """Whatever a card says of them, they are this command's own."""
    values = reproduce.public(told)
    card = card_of(
        told,
        tmp_path / "card",
        name="theirs",
        runs_dir="/theirs",
        monitor={"dataset": "they/experiments", "trackio": "http://theirs"},
        publish={"target": "hub", "repo": "they/model"},
        model={"name": "builtin:tiny", "dtype": "float32", "trust_remote_code": True},
        data={"source": "builtin:demo"},
        evaluate={
            "prompts": "/etc/hostname",
            "general": "/etc/hostname",
            "harness": ["/theirs.yaml", "theirs.yml"],
            "gate": {"not_worse_than": "mine"},
        },
        compute={**values["compute"], "pool": "theirs"},
    )
    config = resolve.resolve({}, {}, reproduce.find(str(card), tmp_path, {}).values).config
    assert "their" not in config.model_dump_json()
    assert (config.name, config.publish.target, config.model.trust_remote_code) == (None, "local", False)
    assert (config.evaluate.prompts, config.evaluate.harness) == (None, None)
    assert (config.evaluate.general, config.evaluate.gate and config.evaluate.gate.not_worse_than) == (None, None)


@pytest.mark.parametrize("place", ["/etc/hostname", "../rows", "~", "~/rows", "rows.jsonl", "tests", "builtin:other"])
def test_a_path_in_a_card_is_not_followed(told: TrainingPlan, tmp_path: Path, place: str) -> None:
    """A source that is no public name is asked for, also where one of that name is here."""
    card = card_of(told, tmp_path / "card", model={"name": "builtin:tiny"}, data={"source": [{"source": place}]})
    with pytest.raises(ConfigError, match=r"data\.source: .*which only its own machine has"):
        reproduce.find(str(card), tmp_path, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": "../recipes/demo"}, "is damaged"),
        ({"expected": "x"}, "is damaged"),
        ({"expected": {"data": {"sources": [1]}, "plan": {}, "result": {}, "machine": {}}}, "is damaged"),
        ({"train": (circle := {}) or circle.setdefault("lora", circle)}, "is damaged"),
        ({"train": ["x"]}, "is damaged"),
    ],
)
def test_a_damaged_card_is_refused(told: TrainingPlan, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """In one line."""
    with pytest.raises(ConfigError, match=said):
        reproduce.find(str(card_of(told, tmp_path / "card", **change)), tmp_path, {})


def test_what_is_no_run_and_no_card_is_refused(tmp_path: Path) -> None:
    """A card of others, a name that nothing has, and a run that is not trained."""
    files.write(tmp_path / "README.md", "# A model\n")
    runs.begin(configure(name="begun", runs_dir=str(tmp_path)))
    for place, said in (("README.md", "does not say"), ("nothing", "there is no run, card"), ("begun", "not trained")):
        named = str(tmp_path / place) if "." in place else place
        with pytest.raises(ConfigError, match=said):
            reproduce.find(named, tmp_path, {})


@pytest.fixture
def pair(make_plan: MakePlan, tmp_path: Path) -> tuple[TrainingPlan, Run]:
    """A trained run, and another that trains it again."""
    first = trained(make_plan, tmp_path / "runs", "first")
    second = trained(make_plan, tmp_path / "runs", "second")
    origin = reproduce.find("first", tmp_path / "runs", {}).origin
    return first, runs.save(runs.read(Path(second.folder)).model_copy(update={"reproduces": origin}))


def test_the_same_is_the_same(pair: tuple[TrainingPlan, Run]) -> None:
    """Equal data, under another name, equal settings and equal weights agree."""
    found = agreement.found(pair[1])
    assert found == {"from": "first", "data": True, "plan": True, "result": True, "differences": {}}
    assert agreement.words(found)[-1] == "result: the same, bit for bit"


def test_what_is_not_there_yet_cannot_be_told(pair: tuple[TrainingPlan, Run]) -> None:
    """A run that ended early says of its result nothing, and without a plan nothing at all."""
    _, run = pair
    (run.path / fit.TRAINED).unlink()
    found = agreement.found(run)
    assert found is not None
    assert (found["data"], found["plan"], found["result"]) == (True, True, None)
    (run.path / "plan.json").unlink()
    assert agreement.found(run) == {"from": "first", "data": None, "plan": None, "result": None, "differences": {}}


def test_what_differs_is_named(pair: tuple[TrainingPlan, Run]) -> None:
    """Other weights: the largest difference of the losses, where that was, and what of the machine is another."""
    first, run = pair
    for folder, losses in ((Path(first.folder), (2.0, 1.5, 1.0)), (run.path, (2.0, 1.25, 1.125))):
        with Journal(folder / "metrics.jsonl", folder.name) as journal:
            for step, loss in enumerate(losses, start=1):
                journal.write("train", {"loss": loss}, step)
    files.write(run.path / "model" / "model.safetensors", b"others")
    plan = fit.read(run.path / "plan.json").model_copy(update={"device_name": "another"})
    fit.write(run.path / "plan.json", with_keys(plan, train={"weight_decay": 0.5}))
    records.write(run.path / fit.TRAINED, "mark", {"final_loss": 1.125}, run.path / "model")
    found = agreement.found(run)
    assert found is not None
    assert (found["data"], found["plan"], found["result"]) == (True, False, False)
    assert found["differences"] == {
        "plan": ["train.weight_decay was 0.0, and is 0.5"],
        "result": ["the training loss differs by at most 0.25, at step 2"],
        "machine": ["device was the test's CPU, and is another"],
    }


def test_equal_data_are_equal_wherever_they_lie(prepare: Prepare, tmp_path: Path) -> None:
    """The same rows in another file are the same sequences; other rows are not."""
    one = write_rows(tmp_path / "a" / "one.jsonl", facts(30))
    found = [prepare(path) for path in (one, write_rows(tmp_path / "b" / "other.jsonl", facts(30)))]
    assert found[0].fingerprint != found[1].fingerprint
    assert found[0].content == found[1].content
    assert prepare(write_rows(tmp_path / "c.jsonl", facts(31))).content != found[0].content


def test_a_run_that_trains_another_again_has_its_name(pair: tuple[TrainingPlan, Run]) -> None:
    """With a number where that is taken; one that did not end is gone on with, by the same origin alone."""
    _, run = pair
    folder = run.path.parent
    assert run.reproduces is not None
    assert reproduce.new_name(folder, "first") == "first-again"
    (folder / "first-again").mkdir()
    assert reproduce.new_name(folder, "first") == "first-again-2"
    assert runs.to_go_on_with(run.config, run.reproduces) == "second"
    other = run.reproduces.model_copy(update={"place": "me/model"})
    assert runs.to_go_on_with(run.config, other) is None
    with pytest.raises(ConfigError, match="run second is there, and does not train first again"):
        runs.begin(run.config, other)


ASK = """
import json, sys
from pathlib import Path
from smollm3_ft import reproduce, resolve, sources

found = reproduce.find("tester/model", Path(sys.argv[1]), {})
config = resolve.resolve({}, {}, found.values).config
(source,) = sources.locate(config.data, None, found.origin.revisions)
print(json.dumps([found.name, found.origin.name, source.revision]))
"""


@pytest.mark.process
def test_a_card_on_the_hub_pins_its_dataset(told: TrainingPlan, tmp_path: Path) -> None:
    """The commit that was trained on is taken, not the newest one."""
    with hub() as server:
        rows = [json.dumps(row).encode() for row in facts(2)]
        first = server.add("dataset", "tester/rows", {"train.jsonl": rows[0]})
        server.add("dataset", "tester/rows", {"train.jsonl": rows[1]})
        expected = reproduce.facts(told)
        expected["data"]["sources"] = {"tester/rows": first}
        values = {"model": {"name": "builtin:tiny"}, "data": {"source": "tester/rows"}, "expected": expected}
        server.add("model", "tester/model", card_of(told, tmp_path / "card", **values))
        asked = server.ask(ASK, tmp_path / "home", str(tmp_path))
        assert asked == ["model", "the card of model", first]


def test_the_card_of_a_run_is_called_after_it(told: TrainingPlan, tmp_path: Path) -> None:
    """And not after the folder `model`, in which it lies."""
    given = {"model": {"name": "builtin:tiny"}, "data": {"source": "builtin:demo", "system_prompt": "x"}}
    card_of(told, tmp_path / "mine" / "model")
    for place in ("mine/model", "mine/model/README.md"):
        assert reproduce.find(str(tmp_path / place), tmp_path, given).name == "mine"
