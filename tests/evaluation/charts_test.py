import re
from xml.etree import ElementTree

import numpy as np
import pytest

from tfssl.evaluation import charts


def svg_of(figure):
    """The parsed SVG of a figure; fails if it is not well-formed XML."""
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", figure, re.S)[0])


def polylines(figure):
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in svg_of(figure).iter("polyline")
    ]


@pytest.mark.parametrize(
    "low, high, count, whole, expected",
    [
        (0, 10, 5, False, [0, 2, 4, 6, 8, 10]),
        (0.62, 0.97, 5, False, [0.7, 0.8, 0.9]),
        (1, 3, 6, True, [1, 2, 3]),
        (-1, 1, 4, False, [-1, -0.5, 0, 0.5, 1]),
        (0, 100, 6, True, [0, 20, 40, 60, 80, 100]),
    ],
)
def test_ticks_are_round_numbers(low, high, count, whole, expected):
    found = charts.ticks(low, high, count=count, whole=whole)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "value, text",
    [
        (0.59421, "0.5942"), (4096, "4,096"), (12.345678, "12.35"), (0.0, "0"),
        (1.2e-5, "1.2e-5"), (5e-4, "5e-4"), (23456.7, "23,457"), (1e9, "1e9"),
        (float("nan"), "nan"), (-0.25, "-0.25"),
    ],
)  # fmt: skip
def test_numbers(value, text):
    assert charts.number(value) == text


def test_a_line_is_drawn_to_scale():
    # Equal steps and values on a line: the drawn points must lie on a line too, and
    # a larger value must be higher (a smaller y).
    (points,) = polylines(charts.line_chart("loss", {"loss": [(0, 0), (1, 1), (4, 4)]}))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2 and y0 > y1 > y2
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=0.01)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.25, abs=0.01)


def test_a_logarithmic_axis_has_its_steps_as_ticks():
    shares = {"few": [(1, 0.2), (10, 0.5), (100, 0.6)], "one": [(10, 0.4)]}
    figure = charts.line_chart("by share", shares, logarithmic=True)
    ((x0, _), (x1, _), (x2, _)), *_ = polylines(figure)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    ticks = [
        (text.text, float(text.get("x")))
        for text in svg_of(figure).iter("text")
        if text.get("text-anchor") == "middle" and text.get("class") == "tick"
    ]
    assert ticks == [("1", x0), ("10", x1), ("100", x2)]


def test_tooltips_and_last_value():
    figure = charts.line_chart("loss", {"loss": [(10, 4.5), (20, 3.25)]})
    titles = [title.text for title in svg_of(figure).iter("title")]
    assert titles == ["loss: 4.5 at step 10", "loss: 3.25 at step 20"]
    assert "last <b>3.25</b>" in figure


def test_values_that_are_not_finite_break_the_line():
    bad = float("nan")
    points = [(0, 1.0), (1, 2.0), (2, bad), (3, 3.0), (4, 4.0), (5, float("inf"))]
    figure = charts.line_chart("loss", {"loss": points})
    assert [len(line) for line in polylines(figure)] == [2, 2]
    assert "2 not finite" in figure and "nan" not in figure
    assert "No values" in charts.line_chart("loss", {"loss": [(0, bad)]})


@pytest.mark.parametrize("points", [[(3, 0.5)], [(1, 2.0), (2, 2.0)], [(0, 0.0)]])
def test_single_and_constant_values(points):
    figure = charts.line_chart("rate", {"rate": points})
    for circle in svg_of(figure).iter("circle"):
        assert 0 <= float(circle.get("cx")) <= 480
        assert 0 <= float(circle.get("cy")) <= 250


def test_long_curves_are_thinned_but_keep_their_spikes():
    values = np.sin(np.arange(5000) / 300)
    values[1234], values[3210] = 9.0, -9.0
    figure = charts.line_chart("loss", {"loss": list(enumerate(values.tolist()))})
    titles = [title.text for title in svg_of(figure).iter("title")]
    assert 100 < len(titles) <= 240
    assert "loss: 9 at step 1,234" in titles
    assert "loss: -9 at step 3,210" in titles
    assert titles[-1].endswith("at step 4,999")


def test_scatter_draws_every_point_and_names_the_groups():
    rng = np.random.default_rng(0)
    groups = np.array([0] * 5 + [1] * 7 + [-1] * 3)
    figure = charts.scatter(rng.normal(size=(15, 2)), groups, ["cat", "dog"], label="x")
    svg = svg_of(figure)
    assert len(list(svg.iter("circle"))) == 15
    names = [text.text for text in svg.iter("text")]
    assert names == ["cat", "dog"]
    titles = [title.text for title in svg.iter("title")]
    assert {t: titles.count(t) for t in set(titles)} == {
        "cat": 5, "dog": 7, "no label": 3,
    }  # fmt: skip
    assert "no label <span>3" in figure


def test_scatter_greys_all_but_the_ten_largest_groups():
    groups = np.repeat(np.arange(12), np.arange(1, 13))
    points = np.random.default_rng(0).normal(size=(len(groups), 2))
    figure = charts.scatter(points, groups, [f"g{i}" for i in range(12)], label="x")
    # Groups 0 and 1 have 1 + 2 points.
    assert figure.count('class="dot rest"') == 3
    assert "other classes <span>3" in figure


def test_text_is_escaped():
    evil = '<script>"&'
    line = charts.line_chart(evil, {evil: [(0, 1)]}, step_name=evil)
    dots = charts.scatter(np.eye(2), [0, 0], [evil], label=evil)
    for figure in (line, dots):
        assert "<script>" not in figure
        svg_of(figure)
