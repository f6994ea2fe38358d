"""Curves as a PNG, for a card: the Hub shows it beside the text, on a light page and on a dark one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from smollm3_ft import pages

WIDTH, HEIGHT = 1200, 400
FINER = 3  # drawn so many times larger, and made smaller: no line has steps
LEFT, RIGHT, TOP, BOTTOM = 70, 16, 16, 40


def png(named: Mapping[str, Sequence[tuple[float, float]]], axis: str = "step") -> bytes:
    """Curves of (step, value) points over common axes; there is at least one point. Equal curves are equal bytes."""
    from PIL import Image, ImageDraw, ImageFont

    points = [point for curve in named.values() for point in curve]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(0.0, min(y for _, y in points)), max(y for _, y in points)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / max(last - first, 1e-9)
        up = (y - low) / max(high - low, 1e-9)
        wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return FINER * (LEFT + across * wide), FINER * (HEIGHT - BOTTOM - up * tall)

    image = Image.new("RGB", (FINER * WIDTH, FINER * HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FINER * 15)
    for tick in range(5):
        value = low + (high - low) * tick / 4
        (left, y), (right, _) = place(first, value), place(last, value)
        draw.line((left, y, right, y), "#dddddd", FINER)
        draw.text((left - FINER * 8, y), pages.label(value, high), "#555555", font, "rm")
    for at, anchor in ((first, "la"), (last, "ra")):
        x, y = place(at, low)
        draw.text((x, y + FINER * 10), f"{axis} {at:.0f}", "#555555", font, anchor)
    for index, (name, curve) in enumerate(named.items()):
        colour = pages.COLOURS[index % len(pages.COLOURS)]
        draw.line([place(x, y) for x, y in curve], colour, FINER * 2, "curve")
        if len(curve) == 1:
            draw.circle(place(*curve[0]), FINER * 3, colour)
        draw.text((FINER * (WIDTH - RIGHT - 8), FINER * (TOP + 6 + 20 * index)), name, colour, font, "ra")
    target = io.BytesIO()
    image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(target, "PNG", optimize=True)
    return target.getvalue()
