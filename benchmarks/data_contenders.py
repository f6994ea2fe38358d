"""One contender of the data benchmark, in a process of its own.

python data_contenders.py CONTENDER MODEL ROWS RENDERED OUT CORES RESULT

The time runs from after the imports, the loading of the tokenizer and a first preparation of a few rows, which starts
whatever starts once, until the prepared data is on disk.
"""

import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import measure

from smollm3_ft import files

MAX_LENGTH = 4096
WARM_ROWS = 20


class Job(NamedTuple):
    """What a contender prepares, and where to. `rendered` holds the same rows as the chat template's text."""

    model: Path
    rows: Path
    rendered: Path
    out: Path
    cores: int


Facts = dict[str, Any]  # what a contender tells of its result: the tokens at least
Contender = Callable[[Job], Facts]


def prepare(folder: Path, rows_file: Path, out: Path, cores: int) -> Facts:
    """The whole of this project's preparation: find and hash the source, fingerprint, then prepare or reuse."""
    from smollm3_ft import chat, data, resolve, sources

    given = {"data": {"source": str(rows_file), "max_length": MAX_LENGTH}}
    config = resolve.resolve(given, environment={}).config
    pinned = sources.locate(config.data, out)
    digest = chat.load(folder).digest
    asked = data.request(pinned, config.data, config.seed, "sft", folder, digest, out, out / "beside")
    prepared = data.prepare(asked, cores)
    return {"tokens": prepared.ledger["tokens"], "folder": prepared.folder, "fill": prepared.ledger["fill"]}


def ours() -> Contender:
    from smollm3_ft import chat, data, resolve, sources  # noqa: F401  # imported before the time runs

    return lambda job: prepare(job.model, job.rows, job.out, job.cores)


def trl() -> Contender:
    """What SFTTrainer does to a dataset when it is made, with nothing cut off."""
    from datasets import load_dataset
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    @functools.cache
    def loaded(folder: Path) -> Any:
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)), AutoTokenizer.from_pretrained(
            folder
        )

    def work(job: Job) -> Facts:
        rows = load_dataset("json", data_files=str(job.rows), cache_dir=str(job.out / "cache"), split="train")
        settings = {"assistant_only_loss": True, "max_length": None, "packing": False}
        quiet = {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True}
        arguments = SFTConfig(output_dir=str(job.out / "trainer"), **settings, **quiet)
        model, tokenizer = loaded(job.model)
        made = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        return {"dataset": made.train_dataset}

    return work


def fixed_width() -> Contender:
    """The older kind of script: rendered row by row, every row padded or cut to the full width, no mask."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer_of = functools.cache(AutoTokenizer.from_pretrained)

    def work(job: Job) -> Facts:
        tokenizer = tokenizer_of(job.model)

        def render(row: dict[str, Any]) -> dict[str, str]:
            return {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)}

        def tokenize(batch: dict[str, Any]) -> Any:
            return tokenizer(batch["text"], truncation=True, padding="max_length", max_length=MAX_LENGTH)

        rows = load_dataset("json", data_files=str(job.rows), cache_dir=str(job.out / "cache"), split="train")
        texts = rows.map(render, remove_columns=rows.column_names)
        return {"padded": texts.map(tokenize, batched=True, remove_columns=["text"])}

    return work


def limit() -> Contender:
    """Byte-pair encoding of the rendered text alone, by the fastest library we know."""
    import fastokens
    import numpy as np

    @functools.cache
    def loaded(folder: Path) -> fastokens.Tokenizer:
        return fastokens.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def work(job: Job) -> Facts:
        encoder, tokens = loaded(job.model), 0
        with job.rendered.open(encoding="utf-8") as texts, (job.out / "ids.bin").open("wb") as ids:
            for line in texts:
                found = np.frombuffer(encoder.encode_batch_flat([json.loads(line)])[0], dtype=np.uint32)
                tokens += len(found)
                found.tofile(ids)
        return {"tokens": tokens}

    return work


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "ours": ours,
    "again": ours,
    "trl": trl,
    "fixed_width": fixed_width,
    "limit": limit,
}


def few(job: Job) -> Job:
    """The first rows of a job, to be prepared beside it."""
    out = job.out / "warm"
    out.mkdir()
    for source in (job.rows, job.rendered):
        with source.open(encoding="utf-8") as lines:
            (out / source.name).write_text("".join(itertools.islice(lines, WARM_ROWS)), encoding="utf-8")
    return job._replace(rows=out / job.rows.name, rendered=out / job.rendered.name, out=out)


def keep_for_comparison(found: Any, out: Path) -> int:
    """Write another library's tokens and labels where the comparison finds them. Returns the number of tokens."""
    import numpy as np

    ids, labels = found.data.column("input_ids").combine_chunks(), found.data.column("labels").combine_chunks()
    lengths, mask = ids.value_lengths().to_numpy(), labels.flatten().to_numpy() != -100
    np.savez(out / "reference.npz", ids=ids.flatten().to_numpy(), mask=mask, lengths=lengths)
    return int(lengths.sum())


def without_padding(found: Any) -> int:
    """The tokens of a dataset of fixed width."""
    return sum(int(chunk.flatten().to_numpy().sum()) for chunk in found.data.column("attention_mask").chunks)


def main(name: str, model: str, rows: str, rendered: str, out: str, cores: str, result: str) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    job = Job(Path(model), Path(rows), Path(rendered), Path(out), int(cores))
    job.out.mkdir(parents=True, exist_ok=True)
    work = CONTENDERS[name]()
    if name != "again":
        work(few(job))
    cpu, wall = measure.cpu_seconds(), time.perf_counter()
    facts = work(job)
    measured = {"wall_s": time.perf_counter() - wall, "cpu_s": measure.cpu_seconds() - cpu}
    measure.done(Path(result), measured)
    if "dataset" in facts:
        facts = {"tokens": keep_for_comparison(facts["dataset"], job.out)}
    if "padded" in facts:
        facts = {"tokens": without_padding(facts["padded"])}
    files.write_json(Path(result), {**measured, **facts})


if __name__ == "__main__":
    main(*sys.argv[1:])
