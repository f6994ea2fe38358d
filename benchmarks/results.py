"""How a benchmark's rows and goals are judged and printed."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

Row = dict[str, Any]
MET = {">=": float.__ge__, "=": float.__eq__, "<=": float.__le__}


def judged(values: Mapping[str, float | None], goals: Mapping[str, tuple[str, float]]) -> dict[str, Row]:
    """Every goal with its value and whether it is met; what was not measured has no value, and is not met."""
    found = {}
    for name, (sign, goal) in goals.items():
        value = values[name]
        met = value is not None and MET[sign](float(value), float(goal))
        found[name] = {"goal": f"{sign} {goal}", "value": None if value is None else _rounded(value), "met": met}
    return found


def rows(found: list[Row], names: dict[str, str], columns: dict[str, str]) -> Iterator[str]:
    """The lines of a table. `columns` are keys of the rows, with their titles."""
    cells = [{key: _shown(row[key]) for key in columns} for row in found]
    widths = {key: 2 + max(10, len(title), *(len(cell[key]) for cell in cells)) for key, title in columns.items()}
    yield f"{'':36}" + "".join(f"{title:>{widths[key]}}" for key, title in columns.items())
    for row, cell in zip(found, cells, strict=True):
        yield f"{names[row['contender']]:36}" + "".join(f"{cell[key]:>{widths[key]}}" for key in columns)


def goals(found: dict[str, Row]) -> Iterator[str]:
    for name, goal in found.items():
        value, judged = goal["value"], "met" if goal["met"] else "missed"
        judged = "not measured" if value is None else judged
        yield f"{name:23} {'–' if value is None else value:>10} goal {goal['goal']:8} {judged}"


def text(result: Row, names: dict[str, str], columns: dict[str, str], first: str, *more: str) -> str:
    """All of a result: what it was measured on, the table, and the goals. `more` lines follow the versions."""
    table, met = rows(result["rows"], names, columns), goals(result["goals"])
    return "\n".join([first, versions(result["versions"]), *more, "", *table, "", *met])


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Of a benchmark's command: its module's text as the help, and --json."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    return made


def versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


def _rounded(value: float) -> float:
    """To four places, or four digits where it is small."""
    return round(value, 4) if abs(value) >= 0.1 else float(f"{value:.4g}")


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
