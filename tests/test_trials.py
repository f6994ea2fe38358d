"""A sweep's trials: proposed once, asked again after a kill, pruned when hopeless, told how they ended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePlan, configure, facts

from smollm3_ft import files, fit, pruning, runs, searchspace, sweeping, sweepreport, trials
from smollm3_ft.errors import ConfigError, Stopped, TrainingError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.journal import Journal
from smollm3_ft.sweeping import Search
from smollm3_ft.trials import Trial

SPACE = {
    "train.learning_rate": {"low": 1e-6, "high": 1e-2, "log": True},
    "train.lora.r": {"low": 2, "high": 64, "log": True},
    "train.adapter": {"choices": ["none", "lora"]},
}
Begin = Callable[..., Search]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, make_plan: MakePlan) -> TrainingPlan:
    """The plan of a training of 10 steps."""
    return make_plan(tmp_path_factory.mktemp("plan") / "runs", "planned", facts(40), train__max_steps=10)


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Begins a sweep `s`, or goes on with it as another process would."""

    def work(name: str = "s", **given: Any) -> Search:
        trials._opened.cache_clear()
        sweep = searchspace.read({"sweep": {"trials": 8, "space": SPACE, **given}})
        return sweeping.begin(configure(name=name, runs_dir=str(tmp_path / "runs")), sweep)

    return work


def asked(search: Search) -> Trial:
    trial = trials.next_trial(search)
    assert trial is not None
    return trial


def validated(search: Search, trial: Trial, plan: TrainingPlan, *losses: float) -> None:
    """Leave in a trial's run what training leaves: its plan, and a validation at each second step."""
    folder = search.runs_dir / trial.name
    fit.write(folder / "plan.json", plan)
    with Journal(folder / "metrics.jsonl", "id") as journal:
        for number, loss in enumerate(losses, 1):
            journal.write("eval", {"loss": loss, "token_accuracy": 1 - loss / 10}, 2 * number)


def finished(search: Search, plan: TrainingPlan, *losses: float, best_step: int | None = None) -> trials.Told:
    """A trial from its beginning to its end."""
    trial = asked(search)
    validated(search, trial, plan, *losses)
    files.write_json(search.runs_dir / trial.name / fit.TRAINED, {"values": {"best_step": best_step}})
    return trials.completed(search, trial)


def test_a_trial_is_a_run_of_its_own(begin: Begin) -> None:
    """Named after the sweep, with the proposed values, and published nowhere."""
    search = begin()
    trial = asked(search)
    config = trials.configuration(search, trial)
    assert config.name == "s-1"
    assert config.train.learning_rate == trial.values["train.learning_rate"]
    assert config.train.lora.r == trial.values["train.lora.r"]
    assert config.publish.target == "none"
    assert runs.begin(config).path == search.runs_dir / "s-1"


def test_proposed_values_lie_within_their_bounds(begin: Begin, plan: TrainingPlan) -> None:
    """Whole numbers are whole."""
    search = begin()
    for _ in range(4):
        values = finished(search, plan, 1.0).values
        assert 1e-6 <= values["train.learning_rate"] <= 1e-2
        assert values["train.lora.r"] in range(2, 65)
        assert values["train.adapter"] in ("none", "lora")


def test_an_unfinished_trial_is_asked_again(begin: Begin) -> None:
    """The same number, name and values, in another process."""
    assert asked(begin()) == asked(begin())


def test_trials_at_once_are_different_ones(begin: Begin) -> None:
    """The unfinished ones that nobody works on come first, and there are no more than were asked for."""
    before = begin(trials=3)
    first, second = asked(before), trials.next_trial(before, [0])
    search = begin(trials=3)
    found = [trials.next_trial(search, range(at_work)) for at_work in range(4)]
    assert found[:2] == [first, second]
    assert [one and one.name for one in found] == ["s-1", "s-2", "s-3", None]


def failing(search: Search, at_work: range = range(0)) -> list[trials.Told]:
    """As many trials as may fail in a row, failed."""
    ended: list[trials.Told] = []
    for _ in range(trials.FAILURES):
        trial = trials.next_trial(search, at_work, ended)
        assert trial is not None
        ended.append(trials.failed(search, trial, "no"))
    return ended


def test_failures_in_a_row_are_those_of_the_trials_that_ended(begin: Begin) -> None:
    """A trial that is still at work does not hide them."""
    search = begin()
    asked(search)
    ended = failing(search, range(1))
    assert [one.name for one in ended] == ["s-2", "s-3", "s-4"]
    with pytest.raises(TrainingError, match="3 trials in a row failed, the last: no"):
        trials.next_trial(search, [0], ended)


def test_failures_in_a_row_at_the_end_are_no_more_than_trials(begin: Begin, plan: TrainingPlan) -> None:
    """All trials have been: the sweep is done, and what was completed before them counts."""
    search = begin(trials=1 + trials.FAILURES)
    finished(search, plan, 1.0)
    ended = failing(search)
    assert trials.next_trial(search, ended=ended) is None


def test_a_sweep_that_failures_ended_goes_on(begin: Begin) -> None:
    """Their cause may be gone: those of a former start do not end the next one."""
    failing(begin())
    assert asked(begin()).name == "s-4"


def test_a_sweep_that_goes_on_proposes_what_it_would_have(begin: Begin, plan: TrainingPlan) -> None:
    """Interrupted after two trials or not, the four are the same."""
    undisturbed = begin("whole")
    whole = [finished(undisturbed, plan, 3.0 - n).values for n in range(4)]
    search = begin("parts")
    parts = [finished(search, plan, 3.0 - n).values for n in range(2)]
    search = begin("parts")
    assert [*parts, *(finished(search, plan, 3.0 - n).values for n in range(2, 4))] == whole
    assert len({values["train.learning_rate"] for values in whole}) == 4


def test_there_are_as_many_trials_as_were_asked_for(begin: Begin, plan: TrainingPlan) -> None:
    """And more, where more are asked for later."""
    search = begin(trials=1)
    finished(search, plan, 1.0)
    assert trials.next_trial(search) is None
    assert asked(begin(trials=2)).name == "s-2"


def test_a_hopeless_trial_is_pruned(begin: Begin, plan: TrainingPlan) -> None:
    """Worse than the median at the same share of the training: who trains it is told, and it says why."""
    search = begin()
    for loss in (1.0, 1.1):
        finished(search, plan, loss + 1, loss)
    trial = asked(search)
    validated(search, trial, plan, 5.0)
    assert trials.judged_hopeless(search, trial)
    folder = search.runs_dir / trial.name
    with pytest.raises(
        Stopped, match=r"pruned: loss 5\.0000 at step 2 of 10; its best so far is worse than the median"
    ):
        pruning.check(folder)
    told = trials.pruned(search, trial, str(pruning.reason(folder)))
    assert (told.state, told.value) == ("pruned", 5.0)
    pruning.take_back(folder)
    pruning.check(folder)


@pytest.mark.parametrize(
    ("before", "losses", "given"),
    [
        (0, [9.0], {}),  # nothing to compare with
        (2, [1.0], {}),  # better
        (2, [9.0], {"pruner": "none"}),
        (2, [9.0, 9.0, 9.0, 9.0, 9.0], {}),  # at its last step
        (2, [], {}),
    ],
)
def test_a_trial_with_hope_goes_on(
    begin: Begin, plan: TrainingPlan, before: int, losses: list[float], given: dict[str, Any]
) -> None:
    """One that is first, better, finished, or not to be judged."""
    search = begin(**given)
    for _ in range(before):
        finished(search, plan, 2.0, 1.9, 1.8, 1.7, 1.6)
    trial = asked(search)
    validated(search, trial, plan, *losses)
    assert not trials.judged_hopeless(search, trial)
    pruning.check(search.runs_dir / trial.name)


def test_a_finished_trial_that_was_not_told_is_not_pruned(begin: Begin, plan: TrainingPlan) -> None:
    """The sweep was killed between its run's end and the note of it: its model is there."""
    search = begin()
    for _ in range(2):
        finished(search, plan, 1.0)
    trial = asked(search)
    validated(search, trial, plan, 5.0)
    files.write_json(search.runs_dir / trial.name / "report.json", {"status": "completed"})
    assert not trials.judged_hopeless(search, trial)


def test_what_is_large_when_good_is_judged_so(begin: Begin, plan: TrainingPlan) -> None:
    """By token accuracy, the trial with the smaller loss of these is the better one."""
    search = begin(metric="token_accuracy")
    values = [finished(search, plan, loss).value for loss in (2.0, 1.0, 1.0, 3.0)]
    best = trials.best(trials.listed(search), search.sweep)
    assert values == [0.8, 0.9, 0.9, 0.7]
    assert best is not None
    assert best.name == "s-2"


def test_a_trial_is_worth_what_its_model_is(begin: Begin, plan: TrainingPlan) -> None:
    """The last validation's value; of one that stopped early, the best one's, whose weights it has."""
    search = begin()
    assert finished(search, plan, 2.0, 1.0, 1.5).value == 1.5
    assert finished(search, plan, 2.0, 1.0, 1.5, best_step=4).value == 1.0


def test_a_failed_trial_says_why(begin: Begin) -> None:
    """Its cause is kept with it."""
    search = begin()
    told = trials.failed(search, asked(search), "it does not fit")
    assert (told.state, told.cause) == ("failed", "it does not fit")


def test_another_search_of_the_same_name_is_refused(begin: Begin) -> None:
    """With the keys that differ; how many trials and what becomes of the best may change."""
    begin()
    begin(trials=9, publish_best=True)
    with pytest.raises(ConfigError, match=r"sweep\.metric: is token_accuracy, but sweep s has loss"):
        begin(metric="token_accuracy")
    with pytest.raises(ConfigError, match=r"sweep\.space\.train\.adapter: is None"):
        begin(space={key: SPACE[key] for key in ("train.learning_rate", "train.lora.r")})


def test_runs_of_somebody_else_are_not_gone_on_with(begin: Begin, tmp_path: Path) -> None:
    """A trial's name that is taken is named before anything begins."""
    runs.begin(configure(name="s-3", runs_dir=str(tmp_path / "runs")))
    with pytest.raises(ConfigError, match="there is a run s-3 already"):
        begin()


def test_an_unfinished_sweep_is_found_by_its_search(begin: Begin) -> None:
    """Without a name, the newest of the same search that is not finished is gone on with."""
    search = begin()
    unnamed = search.config.model_copy(update={"name": None})
    files.write(search.path.with_name("damaged") / sweeping.RECORD, "{")  # passed over
    assert sweeping.to_go_on_with(unnamed, search.sweep) == "s"
    sweepreport.write(search, "completed")
    assert sweeping.to_go_on_with(unnamed, search.sweep) is None


def test_an_unfinished_trial_of_other_code_is_named(begin: Begin) -> None:
    """It goes on only where the changes are accepted."""
    search = begin()
    runs.save(runs.begin(trials.configuration(search, asked(search))).model_copy(update={"code": "0" * 32}))
    with pytest.raises(ConfigError, match="code changed since run s-1 began"):
        trials.check_unfinished(search, accept_changes=False)
    trials.check_unfinished(search, accept_changes=True)
    trials.check_unfinished(search, accept_changes=False)


def test_a_trial_whose_values_do_not_go_together_is_a_row_of_the_report(begin: Begin) -> None:
    """It has no report to link to; its cause may have the table's own sign in it."""
    search = begin()
    trials.failed(search, asked(search), "int | none is asked for")
    sweepreport.write(search, "interrupted")
    text, page = ((search.path / name).read_text() for name in ("report.md", "report.html"))
    (row,) = (line for line in text.splitlines() if line.startswith("| s-1 |"))
    assert row.endswith(r"| failed: int \| none is asked for |")
    assert "<td>s-1<td" in page


def test_the_report_has_every_trial_and_the_best(begin: Begin, plan: TrainingPlan) -> None:
    """As JSON, as markdown and as a page with a plot."""
    search = begin()
    for loss in (2.0, 1.25):
        finished(search, plan, loss)
    trials.failed(search, asked(search), "it did <not> fit")
    asked(search)
    files.write(search.runs_dir / "s-3" / "report.html", "")
    written = sweepreport.write(search, "interrupted")
    assert files.read_json(search.path / "report.json")["best"]["name"] == "s-2"
    assert [one["state"] for one in written["trials"]] == ["completed", "completed", "failed", "unfinished"]
    text, page = ((search.path / name).read_text() for name in ("report.md", "report.html"))
    assert "Best of 4: **s-2**, loss 1.25" in text
    assert f"python -m flows.sweep {search.path / 'sweep.yaml'}" in text
    assert "<svg" in page
    assert "it did &lt;not&gt; fit" in page
    assert '<a href="../../s-3/report.html">s-3</a>' in page
    assert [row["state"] for row in sweepreport.rows(search, written)][1:3] == ["best", "failed: it did <not> fit"]
