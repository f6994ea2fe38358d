"""A model is asked what it was held out from, and its answers end where it ends them."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakePlan, facts, write_rows
from pairs_of_the_demo import capitals
from transformers import AutoModelForCausalLM, AutoTokenizer

from smollm3_ft import attention, batches, comparison, evaluation, files, processes, records, scoring, shards
from smollm3_ft.fit import TrainingPlan

pytestmark = pytest.mark.process

Rows = list[dict[str, Any]]
ROWS = [
    *facts(6),
    {
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "It is 1."},
            {"role": "user", "content": "And two?"},
            {"role": "assistant", "content": "It is 2."},
        ]
    },
    {"prompt": "Count.", "completion": " ".join(str(number) for number in range(40))},
]


@pytest.fixture(scope="module")
def plan(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    """A run that holds nearly all of its rows out, with a prompt and general rows of its own."""
    folder = tmp_path_factory.mktemp("evaluation")
    beside = {"evaluate__prompts": ["One?"], "evaluate__general": str(write_rows(folder / "general.jsonl", facts(2)))}
    return make_plan(folder / "runs", "a", ROWS, data__test=7, data__validation="none", **beside)


@pytest.fixture(scope="module")
def rows(plan: TrainingPlan) -> Rows:
    held: Rows = shards.read(Path(plan.prepared.folder) / "test.arrow").to_pylist()
    return held


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def base(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def learned(tiny: Path, rows: Rows, tokenizer: Any) -> Any:
    """The built-in model, taught the held-out rows by heart."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    inputs = batches.collate(rows)
    for _ in range(60):
        with attention.per_document(model):
            model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_what_was_learned_is_answered(learned: Any, tokenizer: Any, rows: Rows) -> None:
    """A model that knows the rows answers each with its reference, and ends its turn by itself."""
    answers = evaluation.answer(learned, tokenizer, rows, 100)
    assert [answer["row"] for answer in answers] == list(range(7))
    assert [answer["answer"] for answer in answers] == [answer["reference"] for answer in answers]
    assert all(answer["stopped"] for answer in answers)


def test_long_references_are_not_compared(learned: Any, tokenizer: Any, rows: Rows) -> None:
    """An answer is compared word for word where its reference is short."""
    for answer in evaluation.answer(learned, tokenizer, rows, 100):
        at = rows[answer["row"]]["answers"][0]
        assert answer["exact"] is (True if len(rows[answer["row"]]["input_ids"]) - at <= 64 else None)


def test_prompts_end_before_the_last_answer(base: Any, tokenizer: Any, rows: Rows) -> None:
    """A row is asked up to its last answer, earlier turns included, and the reference is that answer."""
    answers = {answer["reference"]: answer["prompt"] for answer in evaluation.answer(base, tokenizer, rows, 100)}
    for reference, prompt in answers.items():
        assert reference not in prompt
        assert prompt.endswith("assistant\n")
    if "It is 2." in answers:
        assert "It is 1." in answers["It is 2."]


def test_what_was_not_learned_is_not_answered(base: Any, tokenizer: Any, rows: Rows) -> None:
    """The untrained model's answers are wrong, and cut off where it does not end them."""
    compared = [answer["exact"] for answer in evaluation.answer(base, tokenizer, rows, 100)]
    assert False in compared
    assert True not in compared


def test_few_of_many_are_spread(base: Any, tokenizer: Any, rows: Rows) -> None:
    """Where fewer are answered than there are, they are spread over all rows."""
    assert [answer["row"] for answer in evaluation.answer(base, tokenizer, rows, 3)] == [0, 3, 6]


def test_rows_without_a_reference_are_not_asked(base: Any, tokenizer: Any, rows: Rows) -> None:
    """A row whose answer was cut off has nothing to be compared with."""
    cut = [{**rows[0], "answers": [-1]}, *rows[1:]]
    assert [answer["row"] for answer in evaluation.answer(base, tokenizer, cut, 100)] == [1, 2, 3, 4, 5, 6]
    assert evaluation.answer(base, tokenizer, cut[:1], 100) == []


def test_answers_do_not_depend_on_the_batch(learned: Any, tokenizer: Any, rows: Rows) -> None:
    """A prompt beside longer ones is continued as it is alone."""
    prompts = [row["input_ids"][: row["answers"][0]] for row in rows]
    assert len({len(prompt) for prompt in prompts}) > 1
    alone = [evaluation.generate(learned, tokenizer, [prompt], 12)[0] for prompt in prompts]
    assert evaluation.generate(learned, tokenizer, prompts, 12) == alone


def test_a_tokenizer_need_have_no_token_to_pad_with(learned: Any, tokenizer: Any, rows: Rows) -> None:
    """What fills a batch is looked at by nobody."""
    prompts = [row["input_ids"][: row["answers"][0]] for row in rows[:6]]
    without = copy.deepcopy(tokenizer)
    without.pad_token = None
    assert evaluation.generate(learned, without, prompts, 12) == evaluation.generate(learned, tokenizer, prompts, 12)


def test_answers_stop_at_the_end_of_the_turn(learned: Any, tokenizer: Any, rows: Rows) -> None:
    """Nothing after the first end-of-turn token counts, and the token itself neither."""
    prompts = [row["input_ids"][: row["answers"][0]] for row in rows]
    for said in evaluation.generate(learned, tokenizer, prompts, 200):
        assert tokenizer.eos_token_id not in said
        assert 0 < len(said) < 200


def test_room_is_kept_to(base: Any, tokenizer: Any, rows: Rows) -> None:
    """A model that does not end is cut off."""
    (said,) = evaluation.generate(base, tokenizer, [rows[0]["input_ids"][:5]], 7)
    assert len(said) <= 7


@pytest.fixture(scope="module")
def evaluated(plan: TrainingPlan) -> Path:
    """The base model evaluated in a process of its own."""
    folder = Path(plan.config.runs_dir) / ".evaluated" / "mark"
    processes.run("smollm3_ft.evaluation", f"{plan.folder}/plan.json", "base", str(folder), on_line=print)
    return folder


def test_the_process_records_what_it_wrote(evaluated: Path) -> None:
    """The result is there as a whole under its fingerprint, and nothing is beside it."""
    assert records.read(evaluated / records.RECORD, "mark", evaluated) == {"which": "base"}
    assert [path.name for path in evaluated.parent.iterdir()] == ["mark"]


def test_every_held_out_row_is_scored(evaluated: Path, plan: TrainingPlan) -> None:
    """The result has every held-out row, and the answers to them, as computed here."""
    result = files.read_json(evaluated / "scores.json")
    assert len(result["rows"]) == len(result["answers"]) == plan.prepared.rows["test"] == 7
    again = evaluation.evaluate(plan, Path(plan.weights))
    assert [row["loss"] for row in result["rows"]] == pytest.approx([row["loss"] for row in again["rows"]], rel=1e-5)
    assert result["answers"] == again["answers"]


def test_the_loss_is_that_of_a_plain_computation(evaluated: Path, plan: TrainingPlan, base: Any, rows: Rows) -> None:
    """To 1e-5 nats a token it is what transformers' own attention gives, row by row and without packing."""
    loss = tokens = 0.0
    with torch.no_grad():
        for row in rows:
            ids, mask = torch.tensor([row["input_ids"]]), torch.tensor(row["mask"], dtype=torch.bool)
            likely = base(input_ids=ids).logits[0, :-1].log_softmax(-1)
            loss -= float(likely.gather(1, ids[0, 1:, None])[mask[1:], 0].sum())
            tokens += int(mask[1:].sum())
    scores = comparison.read_scores(evaluated)
    measured = comparison.compare(scores, scores, samples=0, seed=1)["base"]
    assert measured["loss"]["value"] == pytest.approx(loss / tokens, abs=1e-5)
    assert measured["perplexity"]["value"] == pytest.approx(math.exp(loss / tokens), rel=1e-4)


def test_own_prompts_and_general_rows(evaluated: Path, plan: TrainingPlan) -> None:
    """Beside the held-out rows, general rows are scored and own prompts answered, with as much room as there is."""
    scores = comparison.read_scores(evaluated)
    assert [row["tokens"] > 0 for row in scores["general"]] == [True] * 2
    (said,) = scores["prompts"]
    assert "One?" in said["prompt"]
    assert (said["reference"], said["exact"]) == (None, None)
    compared = comparison.compare(scores, scores, samples=0, seed=1)
    assert compared["difference"]["general_loss"]["value"] == 0
    assert [sample["prompt"] for sample in compared["samples"]] == [said["prompt"]]


def test_base_is_no_better_than_itself(evaluated: Path) -> None:
    """Compared with itself a model has no difference."""
    result = comparison.read_scores(evaluated)
    for difference in comparison.compare(result, result, samples=3, seed=1)["difference"].values():
        assert difference["low"] <= 0 <= difference["high"]


def test_what_was_learned_is_better(
    learned: Any, base: Any, tokenizer: Any, plan: TrainingPlan, tmp_path: Path
) -> None:
    """A model that knows the rows is better on every metric, surely."""
    learned.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pair = [evaluation.evaluate(plan, weights) for weights in (Path(plan.weights), tmp_path)]
    for name, difference in comparison.compare(*pair, samples=3, seed=1)["difference"].items():
        assert difference["low"] > 0, name


def test_without_held_out_rows(make_plan: MakePlan, tmp_path: Path) -> None:
    """With nothing held out the result is empty."""
    plan = make_plan(tmp_path / "runs", "a", facts(5), data__test="none", data__validation="none")
    assert evaluation.evaluate(plan, Path(plan.weights)) == {"rows": [], "answers": [], "general": [], "prompts": []}


@pytest.fixture(scope="module")
def of_pairs(make_plan: MakePlan, tmp_path_factory: pytest.TempPathFactory) -> TrainingPlan:
    """A run on preference pairs, nearly all of them held out."""
    place = tmp_path_factory.mktemp("pairs") / "runs"
    return make_plan(place, "a", capitals(3), train__method="dpo", data__test=10, data__validation="none")


def test_a_pair_is_asked_for_its_chosen_answer(of_pairs: TrainingPlan, learned: Any, tokenizer: Any) -> None:
    """The reference is the chosen answer alone, and the prompt ends before it."""
    held: Rows = shards.read(Path(of_pairs.prepared.folder) / "test.arrow").to_pylist()
    known = {row["chosen"]: row["prompt"] for row in capitals(3)}
    answers = evaluation.answer(learned, tokenizer, held, 100)
    assert len(answers) == 10
    assert {answer["reference"] for answer in answers} == set(known)
    for answer in answers:
        assert answer["prompt"].endswith("assistant\n")
        assert answer["exact"] is False


def test_a_pair_is_scored_by_its_answers(of_pairs: TrainingPlan) -> None:
    """A held-out pair has the loss of its chosen answer, and the log-likelihoods of both, as each has alone."""
    held: Rows = shards.read(Path(of_pairs.prepared.folder) / "test.arrow").to_pylist()
    weights = Path(of_pairs.weights)
    model, _ = evaluation.load(weights, "float32", "cpu")
    for row, found in zip(held, evaluation.evaluate(of_pairs, weights)["rows"], strict=True):
        cut = row["lengths"][0]
        alone = [
            {"input_ids": row["input_ids"][part], "mask": row["mask"][part], "lengths": [length]}
            for part, length in zip((slice(cut), slice(cut, None)), row["lengths"], strict=True)
        ]
        chosen, rejected = scoring.score(model, alone, 1000)
        assert found["loss"] == pytest.approx(chosen.loss, rel=1e-5)
        assert (found["tokens"], found["chosen"]) == (chosen.tokens, -found["loss"])
        assert found["rejected"] == pytest.approx(-rejected.loss, rel=1e-5)
