"""Trainings of several processes for the tests: under accelerate's launcher, or forked from one that has imported."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from smollm3_ft import processes
from smollm3_ft.errors import FinetuneError
from smollm3_ft.fit import TrainingPlan

# The training process, writing down what it puts through its model, and one of them sent a signal by itself when it
# has written a journal record of a kind and step.
TOLD = """
import gc, json, os, signal, sys

gc.disable()  # as the training process does, until it has imported
from smollm3_ft import journal, processes, ranks, sft, training

train, write = sft.SftTrainer.training_step, journal.Journal.write


def main(words):
    plan, rank, kind, step, name = words

    def recorded(self, model, inputs, *rest, **named):
        trained = (inputs["labels"] != -100).any()
        tokens = inputs["input_ids"][0].tolist() if trained else []
        with open(f"{os.path.dirname(plan)}/taken-{ranks.index()}.jsonl", "a") as file:
            file.write(json.dumps([self.state.global_step + 1, tokens]) + "\\n")
        return train(self, model, inputs, *rest, **named)

    def then_send(self, written, values, at=None):
        write(self, written, values, at)
        if at == int(step) and kind in (written, values.get("what")) and ranks.index() == int(rank):
            os.kill(os.getpid(), signal.Signals[name])

    sft.SftTrainer.training_step, journal.Journal.write = recorded, then_send
    sys.argv[1:] = [plan]
    os._exit(processes.child(training.main))
"""
LAUNCHED = TOLD + "\n\nif __name__ == '__main__':\n    main(sys.argv[1:])\n"
# Starts trainings one after the other, each as some processes of its own, as a launcher would; says how each ended.
# Most of the time of a short training is spent on importing: here it is done once.
FORKED = """
import json, os, signal, socket, sys
import launched


def started(rank, count, port, words, said):
    child = os.fork()
    if child == 0:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        if count > 1:
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
            os.environ.update({name: str(value) for name, value in numbers.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        launched.main(words)
    return child


for number, (count, *words) in enumerate(json.loads(sys.argv[1])):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with open(f"{sys.argv[2]}.{number}", "a") as said:
        running = {started(rank, count, port, words, said): rank for rank in range(count)}
    ends = [None] * count
    while running:
        child, status = os.wait()
        ends[running.pop(child)] = code = os.waitstatus_to_exitcode(status)
        for other in running if code else ():
            os.kill(other, signal.SIGKILL)
    with open(sys.argv[2], "a") as file:
        file.write(json.dumps(ends) + "\\n")
"""
NEVER = ("0", "none", "0", "SIGKILL")
Signal = tuple[str, str, str, str]  # rank, kind of record, step, name


class Job(NamedTuple):
    """A training to start: how many processes, and which of them gets a signal, when."""

    plan: TrainingPlan
    count: int
    signal: Signal = NEVER

    @property
    def words(self) -> list[str]:
        return [f"{self.plan.folder}/plan.json", *self.signal]


def killed_at(plan: TrainingPlan, kind: str, *steps: int) -> list[Job]:
    """A training of one process, killed when it has written a record of a kind at each of the steps; and its end."""
    return [*(Job(plan, 1, ("0", kind, str(step), "SIGKILL")) for step in steps), Job(plan, 1)]


def write_programs(folder: Path) -> None:
    (folder / "launched.py").write_text(LAUNCHED)
    (folder / "forked.py").write_text(FORKED)


def launched(job: Job) -> Exception | None:
    """Train once, as the flow does it. Returns how it ended."""
    try:
        processes.run("launched", *job.words, on_line=print, count=job.count)
    except FinetuneError as error:
        return error
    return None


def forked(folder: Path, *jobs: Job) -> list[list[int]]:
    """Train one after the other. Returns the exit codes of the processes of each."""
    words = json.dumps([[job.count, *job.words] for job in jobs])
    processes.run("forked", words, str(folder / "ends.jsonl"), on_line=print)
    for job, said in zip(jobs, _said(folder, len(jobs)), strict=True):
        print(*job.words, said, sep="\n")
    return [json.loads(line) for line in (folder / "ends.jsonl").read_text().splitlines()]


def _said(folder: Path, count: int) -> list[str]:
    """The output of each of the trainings."""
    return [(folder / f"ends.jsonl.{number}").read_text() for number in range(count)]


def in_turn(folder: Path, jobs: Mapping[str, Sequence[Job]]) -> dict[str, list[Exception | None]]:
    """Train one after the other, in one process each. Returns how they ended, as a parent of each would be told."""
    ends = forked(folder, *itertools.chain(*jobs.values()))
    found = iter(_told(code, said) for (code,), said in zip(ends, _said(folder, len(ends)), strict=True))
    return {name: [next(found) for _ in some] for name, some in jobs.items()}


def _told(code: int, said: str) -> Exception | None:
    try:
        processes._check("smollm3_ft.training", code, said.splitlines())
    except FinetuneError as error:
        return error
    return None


def taken(plan: TrainingPlan, count: int) -> dict[int, list[list[list[int]]]]:
    """By step, the tokens that went through the model the last time: a list of micro-batches for each process."""
    found: dict[int, list[list[list[int]]]] = {}
    for rank in range(count):
        before = 0
        for line in (Path(plan.folder) / f"taken-{rank}.jsonl").read_text().splitlines():
            step, tokens = json.loads(line)
            shares = found.setdefault(step, [[] for _ in range(count)])
            if step != before:
                shares[rank] = []
            shares[rank].append(tokens)
            before = step
    return found
