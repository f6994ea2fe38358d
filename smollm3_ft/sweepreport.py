"""What a sweep found: its trials as a table and a plot, as JSON, as markdown and as a page."""

from __future__ import annotations

from typing import Any

from smollm3_ft import files, pages, report, sweeping, trials
from smollm3_ft.sweeping import Search
from smollm3_ft.trials import Told


def write(search: Search, status: str) -> dict[str, Any]:
    """Write `report.md`, `report.html` and, last, `report.json` into the sweep's folder. Returns the last's content."""
    written = collect(search, status)
    for name in ("report.md", "report.html"):
        files.write(search.path / name, render(name, search, written))
    files.write_json(search.path / "report.json", written)
    return written


def collect(search: Search, status: str) -> dict[str, Any]:
    """The content of `report.json`; `status` is completed, failed or interrupted."""
    told = trials.listed(search)
    first = trials.best(told, search.sweep)
    return {
        "status": status,
        "name": search.name,
        "metric": search.sweep.metric,
        "trials": [one._asdict() for one in told],
        "best": first._asdict() if first else None,
        "published": _published(search, first) if first else None,
    }


def render(template: str, search: Search, written: dict[str, Any]) -> str:
    """The report as markdown or as a page."""
    return (
        pages.templates(escaped=template.endswith(".html"))
        .get_template(template.replace("report", "sweep"))
        .render(
            report=written,
            reported=[one["name"] for one in written["trials"] if _has_report(search, one["name"])],
            keys=list(search.sweep.space),
            style=pages.style(),
            plot=plot(search, written),
            shown=shown,
            command=command(search),
        )
    )


def plot(search: Search, written: dict[str, Any]) -> str:
    """The metric of each completed trial, and the best up to it, as an SVG."""
    done = [
        (float(number), float(one["value"]))
        for number, one in enumerate(written["trials"], 1)
        if one["state"] == "completed"
    ]
    better = min if search.sweep.direction == "minimize" else max
    so_far = [(number, better(value for _, value in done[: at + 1])) for at, (number, _) in enumerate(done)]
    named = {search.sweep.metric.replace("_", " "): done, "best so far": so_far}
    return pages.curves(named, axis="trial") if len(done) > 1 else ""


def rows(search: Search, written: dict[str, Any]) -> list[dict[str, str]]:
    """A row a trial: its name, the values, the metric, and what became of it."""
    return [
        {"trial": one["name"]}
        | {key: shown(one["values"].get(key)) for key in search.sweep.space}
        | {search.sweep.metric: shown(one["value"]), "state": described(one, written["best"])}
        for one in written["trials"]
    ]


def described(one: dict[str, Any], best: dict[str, Any] | None) -> str:
    state = "best" if best is not None and one["name"] == best["name"] else str(one["state"])
    return f"{state}: {one['cause']}" if one["cause"] else state


def shown(value: Any) -> str:
    """A number to five digits; what is not there as a dash."""
    return "–" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def command(search: Search) -> str:
    """The command that goes on with this sweep."""
    return f"{report.programs()}python -m flows.sweep {search.path / sweeping.FILE}"


def _has_report(search: Search, name: str) -> bool:
    """A trial whose values do not go together has none, and one that has just begun."""
    return (search.runs_dir / name / "report.html").is_file()


def _published(search: Search, best: Told) -> dict[str, Any] | None:
    """What the best trial's report says of where its model went."""
    published = files.read_json_if_there(search.runs_dir / best.name / "report.json").get("published", {})
    return dict(published) if published.get("target") not in (None, "none") else None
