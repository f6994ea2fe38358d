"""The evaluation process: `python -m smollm3_ft.evaluation <runs_dir>/<name>/plan.json base|tuned|MODEL <folder>`.

Scores the held-out rows under one model (the run's base or tuned one, or another in a folder) and generates answers to
them; `comparison.py` sets two such results side by side. Writes `scores.json` and its record into the folder, as a
whole.
"""

from __future__ import annotations

if __name__ == "__main__":
    import gc
    import sys

    from smollm3_ft import unneeded

    gc.disable()  # what is imported now is no garbage; `processes.child` puts it on again
    unneeded.leave_out(sys.argv[1:])

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from smollm3_ft import files, firstcall, fit, probes, processes, records, runs, scoring, shards
from smollm3_ft.errors import ConfigError, Problem, TrainingError
from smollm3_ft.fit import TrainingPlan
from smollm3_ft.scoring import Score

GENERATED = 200  # held-out rows that are answered
SHORT_ANSWER = 64  # tokens; a longer answer is not compared word for word
NEW_TOKENS = 256
PROMPTS_AT_ONCE = 32


def main() -> None:
    """Evaluate one model. Without held-out rows the result is empty."""
    if len(sys.argv) != 4:
        raise ConfigError(Problem("usage", "python -m smollm3_ft.evaluation PLAN.json base|tuned|MODEL FOLDER"))
    processes.end_with_parent()
    plan, which, final = fit.read(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
    run = runs.read(Path(plan.folder))
    if "evaluate tuned" not in runs.marks(run):  # what is asked later, as of a new variant, may be so by later code
        fit.check_made_here(plan, run.accepted)
    of_run = {"base": Path(plan.weights), "tuned": Path(plan.folder) / "model"}
    weights = of_run.get(which, Path(which))
    try:
        result = evaluate(plan, weights)
    except torch.OutOfMemoryError as error:
        raise TrainingError("the device ran out of memory while evaluating", "lower train.batch_size") from error
    partial = final.with_name(f".partial-{final.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files.write_json(partial / "scores.json", result)
    records.write(partial / records.RECORD, final.name, {"which": which}, partial)
    files.move_folder(partial, final)


def evaluate(plan: TrainingPlan, weights: Path) -> dict[str, Any]:
    """Loss, tokens and hits of every held-out row, of a pair the chosen answer's, and answers to some of them.

    The same of general rows, and answers to own prompts, where there are any.
    """
    rows = shards.read(Path(plan.prepared.folder) / "test.arrow").to_pylist()
    beside = files.read_json(Path(plan.folder) / "data" / probes.FILE)
    model, tokenizer = load(weights, plan.config.model.dtype, plan.device, code=plan.model.code)
    tokens = plan.settings.batch_size * plan.config.data.max_length
    if plan.config.train.method == "dpo":
        scores = [_of_pair(*pair) for pair in scoring.documents(model, rows, tokens)]
    else:
        scores = [score._asdict() for score in scoring.score(model, rows, tokens)]
    return {
        "rows": scores,
        "answers": answer(model, tokenizer, rows, max(GENERATED, plan.config.evaluate.samples)),
        "general": [score._asdict() for score in scoring.score(model, beside["general"], tokens)],
        "prompts": answer(model, tokenizer, beside["prompts"], len(beside["prompts"])),
    }


def _of_pair(chosen: Score, rejected: Score) -> dict[str, float]:
    """The chosen answer's score, and the log-likelihoods (nats) of both."""
    return {**chosen._asdict(), "chosen": -chosen.loss, "rejected": -rejected.loss}


def load(weights: Path, dtype: str, device: str, base: Path | None = None, code: bool = False) -> tuple[Any, Any]:
    """A model ready to be asked, and its tokenizer. With `base`, a model's folder, `weights` is an adapter of it, and
    merged as the training merged it. With `code` the model's own is run."""
    firstcall.settle()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(weights, trust_remote_code=code)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base or weights, dtype=getattr(torch, dtype), trust_remote_code=code
    )
    model = model.to(device)
    if base is not None:
        import peft

        model = peft.PeftModel.from_pretrained(model, weights).merge_and_unload()
    return model.eval(), tokenizer


def answer(
    model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], most: int, first_batch_only: bool = False
) -> list[dict[str, Any]]:
    """Greedy answers to the last turn of up to `most` rows, spread over all of them, beside the reference.

    Of a preference pair the reference is the chosen answer; an own prompt may have none. `exact` is whether the two are
    the same text, None where the reference is long or there is none; `stopped` whether the model ended its answer by
    itself, None where the reference too is longer than there was room for.
    """
    usable = [index for index, row in enumerate(rows) if row["answers"][0] > 0]
    chosen = usable[:: max(1, -(-len(usable) // most))] if usable else []
    by_length = sorted(chosen, key=lambda index: rows[index]["answers"][0])
    found = {}
    end = PROMPTS_AT_ONCE if first_batch_only else len(by_length)
    for at in range(0, min(end, len(by_length)), PROMPTS_AT_ONCE):
        indices = by_length[at : at + PROMPTS_AT_ONCE]
        prompts = [rows[index]["input_ids"][: rows[index]["answers"][0]] for index in indices]
        references = [
            rows[index]["input_ids"][rows[index]["answers"][0] : rows[index]["lengths"][0]] for index in indices
        ]
        longest = max(len(reference) for reference in references)
        room = min(NEW_TOKENS, longest + 16) if all(references) else NEW_TOKENS
        for index, prompt, reference, said in zip(
            indices, prompts, references, generate(model, tokenizer, prompts, room), strict=True
        ):
            wanted = tokenizer.decode(reference, skip_special_tokens=True).strip()
            text = tokenizer.decode(said, skip_special_tokens=True).strip()
            found[index] = {
                "row": index,
                "prompt": tokenizer.decode(prompt, skip_special_tokens=True),
                "reference": wanted if reference else None,
                "answer": text,
                "exact": text == wanted if 0 < len(reference) <= SHORT_ANSWER else None,
                "tokens": len(said),
                # Where the reference itself goes on for longer, an answer that does is no sign of anything.
                "stopped": True if len(said) < room else False if len(reference) < room else None,
            }
    return [found[index] for index in sorted(found)]


@torch.no_grad()
def generate(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], room: int) -> list[list[int]]:
    """Greedy continuations of token prompts, up to the first end-of-turn token, which is left out."""
    longest = max(len(prompt) for prompt in prompts)
    pad, ends = tokenizer.pad_token_id or 0, _end_tokens(model, tokenizer)  # masked, so any token will do
    ids = torch.full((len(prompts), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, prompt in enumerate(prompts):
        ids[index, longest - len(prompt) :] = torch.tensor(prompt)
        mask[index, longest - len(prompt) :] = 1
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=room,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad,
        eos_token_id=ends,
    )
    return [_until_end(said, ends) for said in output[:, longest:].tolist()]


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*several, tokenizer.eos_token_id) if token is not None})


def _until_end(said: list[int], ends: list[int]) -> list[int]:
    return next((said[:index] for index, token in enumerate(said) if token in ends), said)


if __name__ == "__main__":
    code = processes.child(main)
    sys.stdout.flush()
    os._exit(code)
