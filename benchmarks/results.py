"""How a benchmark's rows and goals are judged and printed."""

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]
MET = {">=": float.__ge__, "=": float.__eq__, "<=": float.__le__}


def judged(values: dict[str, float], goals: dict[str, tuple[str, float]]) -> dict[str, Row]:
    """Every goal with its value and whether it is met."""
    return {
        name: {"goal": f"{sign} {goal}", "value": _rounded(values[name]), "met": MET[sign](float(values[name]), goal)}
        for name, (sign, goal) in goals.items()
    }


def rows(found: list[Row], names: dict[str, str], columns: dict[str, str]) -> Iterator[str]:
    """The lines of a table. `columns` are keys of the rows, with their titles."""
    widths = {key: max(12, len(title) + 2) for key, title in columns.items()}
    yield f"{'':36}" + "".join(f"{title:>{widths[key]}}" for key, title in columns.items())
    for row in found:
        yield f"{names[row['contender']]:36}" + "".join(f"{_shown(row[key]):>{widths[key]}}" for key in columns)


def goals(found: dict[str, Row]) -> Iterator[str]:
    for name, goal in found.items():
        yield f"{name:20} {goal['value']:>10} goal {goal['goal']:8} {'met' if goal['met'] else 'missed'}"


def versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


def _rounded(value: float) -> float:
    """To four places, or four digits where it is small."""
    return round(value, 4) if abs(value) >= 0.1 else float(f"{value:.4g}")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
