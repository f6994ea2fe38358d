"""The steps of a run, called one after the other without Prefect: python orchestration_library.py WORDS."""

import sys
from pathlib import Path

from smollm3_ft import (
    comparison,
    data,
    devices,
    files,
    fit,
    gate,
    layers,
    locks,
    plan,
    probes,
    processes,
    publishing,
    report,
    runs,
)
from smollm3_ft import resolve as resolving


def main(words: list[str]) -> None:
    config = resolving.resolve(layers.parse_words(words), {}).config
    with locks.hold(Path(config.runs_dir), str(config.name)) as lock:
        run = runs.begin(config)
        planned = plan.make(config)
        run = runs.save(run.model_copy(update={"plan": planned}))
        model, folders = planned.model, (run.path.parent, run.path / "data")
        asked = data.request(
            planned.sources,
            config.data,
            config.seed,
            config.train.method,
            Path(model.folder),
            model.chat_digest,
            *folders,
        )
        prepared = data.prepare_apart(asked, print)
        data.show(prepared, run.path / "data")
        probes.write(config, Path(model.folder), run.path / "data" / probes.FILE)
        training = fit.made(run.run_id, run.path, config, model, prepared, devices.detect(), print)
        base, tuned = (run.path.parent / ".evaluated" / which for which in ("base", "tuned"))
        path = str(run.path / "plan.json")
        processes.run("smollm3_ft.evaluation", path, "base", str(base), on_line=print)
        processes.run("smollm3_ft.training", path, on_line=print, inherit=(lock,))
        processes.run("smollm3_ft.evaluation", path, "tuned", str(tuned), on_line=print)
        before, after = (comparison.read_scores(folder) for folder in (base, tuned))
        origins = files.read_json(Path(prepared.folder) / "origins.json")
        seed, beta = config.seed, config.train.beta
        compared = comparison.compare(before, after, config.evaluate.samples, seed, beta, origins)
        verdict = gate.judge(config.evaluate.gate, compared, after, None, seed, beta)
        files.write_json(run.path / "evaluation.json", {**compared, "gate": verdict})
        record = publishing.publish(run, training)
        processes.run("smollm3_ft.publishing", path, str(tuned), str(run.path / "model"), on_line=print)
        publishing.verified(run, record)
        report.write(run, "completed", [])


if __name__ == "__main__":
    main(sys.argv[1:])
