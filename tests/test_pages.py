"""Numbers as people read them, and curves that can be drawn from anything."""

import io
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image, ImageColor

from smollm3_ft import curvepicture, pages


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (245.4, "4 min 05 s"),
        (3599.7, "1 h 00 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    """Seconds, minutes or hours, as is fit."""
    assert pages.duration(seconds) == said


def test_an_interval() -> None:
    """A value stands with its interval."""
    assert pages.interval({"value": 0.9124, "low": -0.5, "high": 1}) == "0.912 [-0.500, 1.000]"
    assert pages.figure(-0.0004) == "0.000"


SHAPES = [[(1, 2.0)], [(1, 2.0), (2, 1.0)], [(5, 0.0), (5, 0.0)], [(0, -1.0), (10, 1e6)]]


@pytest.mark.parametrize("points", SHAPES)
def test_a_curve_is_a_picture(points: list[tuple[float, float]]) -> None:
    """The same points are the same bytes of a PNG, in which there is something of the curve's colour."""
    content = curvepicture.png({"training": points})
    assert content == curvepicture.png({"training": points})
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("PNG", (curvepicture.WIDTH, curvepicture.HEIGHT))
    assert ImageColor.getrgb(pages.COLOURS[0]) in {colour for _, colour in picture.getcolors(2**16) or ()}


@pytest.mark.parametrize("points", SHAPES)
def test_curves_are_well_formed(points: list[tuple[float, float]]) -> None:
    """One point or many, flat or steep, make an SVG whose points lie inside of it."""
    root = ElementTree.fromstring(str(pages.curves({"training": points, "validation": points})))
    lines = [child for child in root if child.tag.endswith("polyline")]
    assert len(lines) == 2
    for pair in lines[0].attrib["points"].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 900
        assert 0 <= y <= 260


def test_no_points_no_curve() -> None:
    """Before anything was trained there is nothing to draw."""
    assert str(pages.curves({})) == ""
