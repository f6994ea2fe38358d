"""The parts that pages share: templates, style, curves as SVG, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from smollm3_ft import files

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = ("#4c72d9", "#c8731f", "#2a9a6a", "#b8479b", "#8a7d1f", "#7a5fd0")  # readable on light and dark


def templates(escaped: bool = True, before: Path = TEMPLATES) -> jinja2.Environment:
    """The project's templates, but for those of the same name in `before`; text is escaped but for markdown."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([before, TEMPLATES]),
        autoescape=escaped,  # noqa: S701  # off for markdown alone
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style() -> Markup:
    return Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704  # a file of ours


def interval(measured: dict[str, Any]) -> str:
    """A value with its interval: 0.912 [0.871, 0.945]."""
    value, low, high = (figure(measured[name]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def figure(value: float) -> str:
    """0.912; 1.2e+05 for what is large, such as the perplexity of a bad model."""
    return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 10_000 else f"{value:.3g}"  # 0.000, and never -0.000


def metrics(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row a metric of `evaluation.json` or of a part of it: its name, and the three sides with their intervals."""
    sides = ("base", "tuned", "difference")
    return [
        {"name": name.replace("_", " ")} | {side: interval(evaluation[side][name]) for side in sides}
        for name in evaluation.get("difference", {})
    ]


def variants(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row a quantized variant and metric: its kind and bytes, what it scores, and the difference to the model."""
    return [
        {"kind": kind, "size": files.gib(one["bytes"]), "name": name.replace("_", " ")}
        | {"value": interval(one[name]), "difference": interval(one["difference"][name])}
        for kind, one in evaluation.get("quantized", {}).items()
        for name in one.get("difference", {})
    ]


def link(place: str) -> str:
    """A page's address as a link, a file or folder as code, in markdown: browsers open no file from a page."""
    return f"<{place}>" if "://" in place else f"`{place}`"


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s or 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def curves(
    named: Mapping[str, Sequence[tuple[float, float]]],
    width: int = 900,
    height: int = 260,
    axis: str = "step",
    legend: bool = True,
) -> Markup:
    """Curves of (step, value) points over common axes, as an SVG that stands alone. `axis` is what is counted.

    The legend is left out where the page has one for several plots: curves have their colours by their order.
    """
    points = [point for curve in named.values() for point in curve]
    if not points:
        return Markup("")
    left, bottom, top = 52, 24, 14
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(0.0, min(y for _, y in points)), max(y for _, y in points)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / max(last - first, 1e-9)
        up = (y - low) / max(high - low, 1e-9)
        return left + across * (width - left - 8), height - bottom - up * (height - bottom - top)

    drawn = []
    for tick in range(5):
        value = low + (high - low) * tick / 4
        _, y = place(first, value)
        drawn.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>')
        drawn.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label(value, high)}</text>')
    for index, (name, curve) in enumerate(named.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in curve)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        place_of_name = f'x="{width - 8}" y="{top + 14 * index}" text-anchor="end"'
        if legend:
            drawn.append(f'<text {place_of_name} style="fill:{colour}">{name}</text>')
    drawn.append(f'<text x="{left}" y="{height - 6}">{axis} {first:.0f}</text>')
    drawn.append(f'<text x="{width - 8}" y="{height - 6}" text-anchor="end">{axis} {last:.0f}</text>')
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">{"".join(drawn)}</svg>'
    return Markup(svg)  # noqa: S704  # numbers, and names of ours


def label(value: float, high: float) -> str:
    """A number beside an axis that goes up to `high`."""
    if high >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if high >= 0.1 or value == 0 else f"{value:.0e}"
