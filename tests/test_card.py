"""The card tells the truth of a run, and leaves out what it does not know."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import MakePlan
from hub import hub
from trained import INTERVAL, finished

from smollm3_ft import card as cards
from smollm3_ft import files, fit, modelfolder, runs
from smollm3_ft.errors import ConfigError, PublishError
from smollm3_ft.fit import TrainingPlan

WORSE, UNSURE = {"value": -0.5, "low": -0.75, "high": -0.25}, {"value": 0.1, "low": -0.1, "high": 0.3}
# Asks the Hub whether it takes each card, and reads the results in its head as the Hub's client does.
CLIENT = """
import json, sys
from huggingface_hub import ModelCard

card = ModelCard.load(sys.argv[1])
card.validate()
results = [[one.metric_type, one.metric_value, one.metric_args] for one in card.data.eval_results]
print(json.dumps({"results": results, "name": card.data.model_name, "license": card.data.license}))
"""


@pytest.fixture(scope="module")
def plan(make_plan: MakePlan, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    return finished(make_plan, tiny, tmp_path_factory.mktemp("card") / "runs")


@pytest.fixture(autouse=True)
def kept(plan: TrainingPlan) -> Any:
    """The run's evaluation, as it was, after each test."""
    path = Path(plan.folder) / "evaluation.json"
    before = path.read_bytes()
    yield
    path.write_bytes(before)


def card(plan: TrainingPlan, despite_gate: str | None = None, **evaluation: Any) -> str:
    """The card, with some of the evaluation's parts."""
    path = Path(plan.folder) / "evaluation.json"
    files.write_json(path, files.read_json(path) | evaluation)
    return (modelfolder.complete(plan, despite_gate=despite_gate) / "README.md").read_text()


def head(text: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return values


def with_config(plan: TrainingPlan, section: str, **given: Any) -> TrainingPlan:
    changed = getattr(plan.config, section).model_copy(update=given)
    return plan.model_copy(update={"config": plan.config.model_copy(update={section: changed})})


def of_hub(plan: TrainingPlan, weights: Path) -> TrainingPlan:
    """The plan, had its base model come from the Hub into the folder `weights`."""
    model = plan.model.model_copy(update={"kind": "hub", "name": "owner/base", "revision": "c" * 40})
    return plan.model_copy(update={"model": model, "weights": str(weights)})


def test_what_has_no_value_is_left_out(plan: TrainingPlan) -> None:
    """A local base model has no name on the Hub, no licence and no language; a run need not have been evaluated."""
    assert set(head(card(plan))) == {"library_name", "pipeline_tag", "tags", "model-index"}
    nothing: dict[str, Any] = {"base": {}, "tuned": {}, "difference": {}, "rows": 0, "samples": []}
    bare = card(plan, **nothing)
    assert set(head(bare)) == {"library_name", "pipeline_tag", "tags"}
    assert "It was not evaluated: no rows were held out." in bare
    for text in (bare, card(plan)):
        assert not re.search(r"\b(None|N/A|null|nan|Undefined)\b", text)
        assert "|---|\n\n" not in text  # a table without rows


@pytest.mark.process
def test_the_hub_takes_the_card(plan: TrainingPlan, tmp_path: Path) -> None:
    """Its head is valid by the Hub's own check, and its results are read as they are in the evaluation."""
    text = card(plan, quantized={}, harness={"base": {"arc": {"acc": 0.25}}, "tuned": {"arc": {"acc": 0.5}}})
    (tmp_path / "README.md").write_text(text)
    with hub() as server:
        told = server.ask(CLIENT, tmp_path / "home", str(tmp_path / "README.md"))
    both = {"interval": [0.25, 0.75], "base": 0.5, "base_interval": [0.25, 0.75]}
    assert told["name"] == "a"
    assert told["results"] == [["loss", 0.5, both], ["exact_match", 0.5, both], ["acc", 0.5, {"base": 0.25}]]


def test_a_base_model_of_the_hub_is_named_with_its_commit(plan: TrainingPlan, tmp_path: Path) -> None:
    """In the head, and in the text as a link."""
    text = card(of_hub(plan, tmp_path))
    assert (head(text)["base_model"], head(text)["base_model_relation"]) == ("owner/base", "finetune")
    assert f"[owner/base](https://huggingface.co/owner/base) at `{'c' * 12}`" in text


@pytest.mark.parametrize(
    ("base", "known"),
    [
        ("license: apache-2.0\nlanguage: [en, de]\n", {"license": "apache-2.0", "language": ["en", "de"]}),
        (
            "license: other\nlicense_name: ours\nlicense_link: LICENSE\n",
            {
                "license": "other",
                "license_name": "ours",
                "license_link": f"https://huggingface.co/owner/base/blob/{'c' * 40}/LICENSE",
            },
        ),
        ("license: 3\nlanguage: {a: b}\n", {}),
        ("- a list\n", {}),
        ("a: [\n", {}),
    ],
)
def test_licence_and_language_are_the_base_models(
    plan: TrainingPlan, tmp_path: Path, base: str, known: dict[str, Any]
) -> None:
    """They are taken from its own card; what cannot be read there is not known."""
    (tmp_path / "README.md").write_text(f"---\n{base}---\n\n# Base\n")
    found = head(card(of_hub(plan, tmp_path)))
    assert {key: found[key] for key in ("license", "license_name", "license_link", "language") if key in found} == known


@pytest.mark.parametrize(
    ("difference", "verdict", "said"),
    [
        (INTERVAL, "better", "better than"),
        (WORSE, "worse", "worse than"),
        (UNSURE, "no sure difference", "not surely different from"),
    ],
)
def test_better_is_said_where_the_interval_says_so(
    plan: TrainingPlan, difference: dict[str, float], verdict: str, said: str
) -> None:
    """Nothing is called better or worse whose interval holds zero."""
    text = card(plan, difference={"loss": difference, "exact_match": INTERVAL})
    assert re.search(rf"^\| loss \|.*\| {verdict} \|$", text, re.MULTILINE)
    assert f"its loss is 0.500 [0.250, 0.750], {said} the base model's 0.500 [0.250, 0.750]." in text


def test_a_gate_that_was_overridden_stands_at_the_top(plan: TrainingPlan) -> None:
    """The gate's verdict and the reason come before anything else."""
    gate = {"state": "failed", "metric": "loss", "why": "the gain in loss is 0.1 [-0.1, 0.3]"}
    lines = card(plan, gate=gate, despite_gate="for a\ncomparison").split("---\n", 2)[2].split("\n\n")
    assert lines[0].strip() == "# a"
    assert "Published although its gate was against it." in lines[1]
    assert "the gain in loss is 0.1 [-0.1, 0.3]" in lines[1]
    assert "for a comparison" in lines[1]
    assert "Published although" not in card(plan, gate={"state": "passed", "why": "it is better"})


def test_what_became_of_the_rows(plan: TrainingPlan) -> None:
    """Dropped rows stand by their reasons, cut ones are counted, and leaks are named."""
    book = json.loads(json.dumps(plan.prepared.ledger))
    book["sources"][0] |= {"rows": 30, "kept": 20, "cut": 4, "dropped": {"duplicate": 3, "over_length": 7}}
    book["leaks"] = {"exact": 2, "near": 1, "excluded": 2, "first": []}
    prepared = plan.prepared.model_copy(update={"ledger": book})
    text = card(plan.model_copy(update={"prepared": prepared}))
    assert "| prompt_completion | 30 | 20 | 4 | 3 duplicate, 7 over_length |" in text
    assert "2 training rows repeat a held-out row and 1 nearly do; 2 of them were left out of training." in text
    assert "nearly do" not in card(plan)


def test_other_measurements(plan: TrainingPlan) -> None:
    """What lm-eval found stands with its errors, smaller variants with what they lose, and what was forgotten."""
    harness = {
        "base": {"arc": {"acc": 0.25, "acc_stderr": 0.01}},
        "tuned": {"arc": {"acc": 0.5, "acc_stderr": 0.02}},
    }
    sides = {side: {"loss": INTERVAL, "general_loss": INTERVAL} for side in ("base", "tuned")}
    forgotten = {**sides, "difference": {"loss": INTERVAL, "general_loss": WORSE}, "general_rows": 40}
    int8 = {"bytes": 2**20, "loss": INTERVAL, "difference": {"loss": WORSE}}
    (Path(plan.folder) / "model" / "int8").mkdir()
    text = card(plan, harness=harness, quantized={"int8": int8, "int4": int8}, **forgotten)
    (Path(plan.folder) / "model" / "int8").rmdir()
    assert "| arc | acc | 0.250 ± 0.010 | 0.500 ± 0.020 |" in text
    assert "| int8 | 1.0 MiB | 0.500 [0.250, 0.750] | -0.500 [-0.750, -0.250] | worse |" in text
    assert "int4" not in text  # it is not in the folder
    assert "- It forgot: on general rows its loss is worse than the base model's." in text


def test_texts_are_shown_on_request_alone(plan: TrainingPlan) -> None:
    """Answers side by side are in a card where `publish.samples` says so, within fences that their text cannot end."""
    sample = {"prompt": "a private ```question```", "reference": None, "base": "b", "tuned": "````"}
    assert "a private" not in card(plan, samples=[sample])
    text = card(with_config(plan, "publish", samples=True), samples=[sample])
    assert "````text\na private ```question```\n````" in text
    assert "`````text\n````\n`````" in text


@pytest.mark.parametrize(
    ("monitor", "shown"),
    [
        ({"trackio": "owner/space"}, ["https://huggingface.co/spaces/owner/space"]),
        ({"trackio": "https://trackio.example.org"}, ["https://trackio.example.org"]),
        ({"trackio": "http://127.0.0.1:7860"}, []),
        ({"trackio": "http://10.1.2.3:7860"}, []),
        ({"trackio": "http://server:7860"}, []),
        ({"trackio": "local", "dataset": "owner/runs"}, ["https://huggingface.co/datasets/owner/runs"]),
    ],
)
def test_links_lead_to_what_others_can_reach(plan: TrainingPlan, monitor: dict[str, str], shown: list[str]) -> None:
    """Curves on a Space or a server that is not of this network, and the experiment dataset."""
    assert re.findall(r"^- .*: <(.*)>$", card(with_config(plan, "monitor", **monitor)), re.MULTILINE) == shown


def test_a_dataset_of_the_hub_is_named_with_its_commit(plan: TrainingPlan) -> None:
    """In the head by its name, and in the text as a link with the commit."""
    run = runs.read(Path(plan.folder))
    assert run.plan is not None
    (source,) = run.plan.sources
    on_hub = source.model_copy(update={"kind": "hub", "source": "owner/set", "config": "SFT", "revision": "d" * 40})
    book = {**plan.prepared.ledger, "sources": [{**plan.prepared.ledger["sources"][0], "source": "owner/set"}]}
    prepared = plan.prepared.model_copy(update={"ledger": book})
    runs.save(run.model_copy(update={"plan": run.plan.model_copy(update={"sources": (on_hub,)})}))
    try:
        text = card(plan.model_copy(update={"prepared": prepared}))
    finally:
        runs.save(run)
    assert head(text)["datasets"] == ["owner/set"]
    assert head(text)["model-index"][0]["results"][0]["dataset"] == {
        "name": "held-out rows of owner/set",
        "type": "owner/set",
        "revision": "d" * 40,
    }
    assert f"| [owner/set](https://huggingface.co/datasets/owner/set) (SFT) | `{'d' * 12}` |" in text


def test_a_template_of_ones_own(plan: TrainingPlan) -> None:
    """A card.md in `.templates` of the runs' folder takes the place of ours; the head stays. What it asks for and is
    not there is said in a line."""
    own = Path(plan.folder).parent / cards.OWN / cards.TEMPLATE
    files.write(own, "# {{ name }} of mine\n")
    try:
        text = card(plan)
        assert text.endswith("---\n\n# a of mine\n")
        assert "smollm3-ft" in head(text)["tags"]
        files.write(own, "{{ unheard_of }}")
        with pytest.raises(PublishError, match=r"card.md cannot be rendered \('unheard_of' is undefined\); mend it"):
            card(plan)
        files.write(own, "{{ name + 1 }}")
        with pytest.raises(PublishError, match=r"card.md cannot be rendered \(can only concatenate"):
            card(plan)
        files.write(own, "\n{% if %}")
        with pytest.raises(ConfigError, match=r"card.md:2: is no template .*; mend it, or move it away"):
            cards.check_own(own.parent.parent)
    finally:
        own.unlink()
    cards.check_own(own.parent.parent)


def test_preference_pairs(plan: TrainingPlan) -> None:
    """The card of a run of pairs names its loss and its strength."""
    text = card(with_config(plan, "train", method="dpo", loss="apo_zero", beta=0.05))
    assert "preference optimization (dpo, loss apo_zero, beta 0.05)" in text
    assert head(text)["tags"] == ["smollm3-ft", "dpo"]


def test_numbers_come_from_the_record_of_the_training(plan: TrainingPlan) -> None:
    """Steps, tokens and the loss are those of the training's record."""
    trained = files.read_json(Path(plan.folder) / fit.TRAINED)["values"]
    text = card(plan)
    assert f"| steps | {trained['steps']} |" in text
    assert "| tokens (in the loss) | 1,000 (300) |" in text
    assert "| final training loss | 0.250 |" in text
