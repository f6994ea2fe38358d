"""How a benchmark's rows and goals are judged and printed."""

from collections.abc import Iterator, Mapping
from typing import Any

Row = dict[str, Any]
MET = {">=": float.__ge__, "=": float.__eq__, "<=": float.__le__}


def judged(values: Mapping[str, float | None], goals: dict[str, tuple[str, float]]) -> dict[str, Row]:
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
