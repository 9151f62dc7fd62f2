"""Line charts and scatter plots as inline SVG, for the report.

Colours are CSS classes (`c0` … `c9`), so that one stylesheet serves light, dark
and print. Every point carries a `<title>`, which browsers show as a tooltip.
"""

import html
import math

import numpy as np

NUM_COLORS = 10
# More points than this per line cannot be told apart at the printed width.
_MAX_POINTS = 240
_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 12, 40


def escape(text):
    """Text as HTML, also inside attributes."""
    return html.escape(str(text), quote=True)


def number(value):
    """A number with four significant digits: 0.5942, 12.35, 4,096, 1.2e-5."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size < 1e7 and value == int(value):
        return f"{int(value):,}"
    if 1e-3 <= size < 1e7:
        return f"{value:,.0f}" if size >= 1e4 else f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def ticks(low, high, *, count=5, whole=False):
    """Round numbers (1, 2 or 5 times a power of ten) that span a range.

    Args:
        low: smallest value to show.
        high: largest value to show, > `low`.
        count: about how many ticks to place.
        whole: use whole numbers only (steps, epochs).

    Returns:
        List of floats inside `[low, high]`, ascending.
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    if whole:
        step = max(round(step), 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [position * step for position in range(first, last + 1)]


def line_chart(title, series, *, step_name="step", logarithmic=False):
    """A panel with one or more lines over the steps of a run.

    Args:
        title: heading of the panel.
        series: dict of name to a list of `(step, value)`; values that are not
            finite break the line and are counted in the caption.
        step_name: what the horizontal axis counts.
        logarithmic: whether the horizontal axis is, of steps above 0; its ticks are
            then the steps.

    Returns:
        str, an HTML `<figure>`.
    """
    series = {str(name): sorted(points) for name, points in series.items()}
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(y)]
        for name, points in series.items()
    }
    everything = [point for points in finite.values() for point in points]
    head = _line_head(title, series, finite)
    if not everything:
        return f'<figure class="panel">{head}<p class="muted">No values.</p></figure>'
    steps = sorted({x for x, _ in everything})
    x_low, x_high = _padded([math.log(x) for x in steps] if logarithmic else steps, 0)
    y_low, y_high = _padded([y for _, y in everything], 0.06)
    along = _scale(x_low, x_high, _LEFT, _WIDTH - _RIGHT)
    to_x = (lambda x: along(math.log(x))) if logarithmic else along
    to_y = _scale(y_low, y_high, _HEIGHT - _BOTTOM, _TOP)
    if not logarithmic:
        whole = all(float(x).is_integer() for x in steps)
        steps = ticks(x_low, x_high, count=6, whole=whole)
    body = [_axes(to_x, to_y, steps, (y_low, y_high), step_name)]
    for color, (name, points) in enumerate(series.items()):
        body.append(_line(name, points, to_x, to_y, color % NUM_COLORS, step_name))
    label = escape(f"{title} by {step_name}: {', '.join(series)}")
    return (
        f'<figure class="panel">{head}<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" aria-label="{label}">{"".join(body)}</svg></figure>'
    )


def scatter(points, groups, names, *, label):
    """A square scatter plot, coloured by group, with each group's name written in.

    Args:
        points: float `(n, 2)`.
        groups: int `(n,)`, position in `names`; -1 for "no label".
        names: group names. The ten largest groups get colours, the rest is grey.
        label: text for screen readers.

    Returns:
        str, an HTML `<figure>`.
    """
    side, margin = 640, 18
    points, groups = np.asarray(points, np.float64), np.asarray(groups)
    present, counts = np.unique(groups[groups >= 0], return_counts=True)
    largest = sorted(present[np.argsort(-counts, kind="stable")][:NUM_COLORS])
    color = {group: f"c{position}" for position, group in enumerate(largest)}
    to_x = _scale(*_padded(points[:, 0], 0.02), margin, side - margin)
    to_y = _scale(*_padded(points[:, 1], 0.02), side - margin, margin)
    # Drawn in a fixed shuffled order, so that no class hides the others.
    order = np.random.default_rng(0).permutation(len(points))
    dots = "".join(
        f'<circle class="dot {color.get(groups[i], "rest")}" r="3.2" '
        f'cx="{to_x(points[i, 0]):.1f}" cy="{to_y(points[i, 1]):.1f}">'
        f"<title>{escape(_group_name(groups[i], names))}</title></circle>"
        for i in order
    )
    texts = "".join(
        f'<text class="name" x="{to_x(center[0]):.0f}" y="{to_y(center[1]):.0f}">'
        f"{escape(_group_name(group, names))}</text>"
        for group in largest
        for center in [np.median(points[groups == group], axis=0)]
    )
    legend = "".join(
        f'<li class="{color[group]}"><i class="swatch round"></i>'
        f"{escape(_group_name(group, names))} <span>{(groups == group).sum():,}</span>"
        "</li>"
        for group in largest
    )
    others = int((~np.isin(groups, largest)).sum())
    if others:
        text = "other classes" if len(present) > len(largest) else "no label"
        legend += (
            f'<li class="rest"><i class="swatch round"></i>{text} '
            f"<span>{others:,}</span></li>"
        )
    return (
        f'<figure class="scatter"><svg viewBox="0 0 {side} {side}" role="img" '
        f'aria-label="{escape(label)}"><rect class="frame" x="1" y="1" rx="8" '
        f'width="{side - 2}" height="{side - 2}"/>{dots}{texts}</svg>'
        f'<ul class="legend tall">{legend}</ul></figure>'
    )


def _group_name(group, names):
    if group < 0:
        return "no label"
    return names[group] if group < len(names) else f"class {group}"


def _line_head(title, series, finite):
    """Heading, and the last value of each line as its legend."""
    items = []
    for color, name in enumerate(series):
        last = f"{number(finite[name][-1][1])}" if finite[name] else "–"
        bad = len(series[name]) - len(finite[name])
        bad = f' <em class="bad">{bad} not finite</em>' if bad else ""
        text = "last " if len(series) == 1 and name == title else f"{escape(name)} "
        items.append(
            f'<li class="c{color % NUM_COLORS}"><i class="swatch"></i>{text}'
            f"<b>{last}</b>{bad}</li>"
        )
    return (
        f'<figcaption><h3>{escape(title)}</h3><ul class="legend">{"".join(items)}'
        "</ul></figcaption>"
    )


def _axes(to_x, to_y, steps, y_range, step_name):
    parts = []
    for value in ticks(*y_range, count=6):
        y = to_y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text class="tick" text-anchor="end" x="{_LEFT - 8}" '
            f'y="{y + 3.5:.1f}">{number(value)}</text>'
        )
    base = _HEIGHT - _BOTTOM
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" '
        f'y2="{base}"/>'
    )
    for value in steps:
        x = to_x(value)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" '
            f'y2="{base + 4}"/><text class="tick" text-anchor="middle" x="{x:.1f}" '
            f'y="{base + 16}">{number(value)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="label" text-anchor="middle" x="{middle}" y="{_HEIGHT - 6}">'
        f"{escape(step_name)}</text>"
    )
    return "".join(parts)


def _line(name, points, to_x, to_y, color, step_name):
    """One line, broken at values that are not finite, and its points."""
    paths, run = [], []
    shown = _thinned(points)
    for x, y in shown:
        if math.isfinite(y):
            run.append(f"{to_x(x):.1f},{to_y(y):.1f}")
        else:
            paths.append(run)
            run = []
    paths.append(run)
    lines = "".join(
        f'<polyline points="{" ".join(path)}"/>' for path in paths if len(path) > 1
    )
    few = " few" if len(shown) <= 40 else ""
    dots = "".join(
        f'<g class="point{few}"><circle class="hit" r="7" cx="{to_x(x):.1f}" '
        f'cy="{to_y(y):.1f}"/><circle class="dot" r="2.6" cx="{to_x(x):.1f}" '
        f'cy="{to_y(y):.1f}"/><title>{escape(name)}: {number(y)} at '
        f"{escape(step_name)} {number(x)}</title></g>"
        for x, y in shown
        if math.isfinite(y)
    )
    return f'<g class="line c{color}">{lines}{dots}</g>'


def _thinned(points):
    """At most `_MAX_POINTS` points: each stretch keeps its lowest and highest."""
    if len(points) <= _MAX_POINTS:
        return points
    kept = {0, len(points) - 1}
    for rows in np.array_split(np.arange(len(points)), (_MAX_POINTS - 2) // 2):
        values = [points[row][1] for row in rows]
        gaps = [row for row, y in zip(rows, values) if not math.isfinite(y)]
        if gaps:
            kept.add(int(gaps[0]))
        else:
            kept |= {int(rows[np.argmin(values)]), int(rows[np.argmax(values)])}
    return [points[row] for row in sorted(kept)]


def _padded(values, share):
    """Range of the values with a margin; never empty."""
    low, high = float(np.min(values)), float(np.max(values))
    if low == high:
        half = abs(low) * 0.1 or 0.5
        return low - half, high + half
    margin = share * (high - low)
    return low - margin, high + margin


def _scale(low, high, start, stop):
    return lambda value: start + (float(value) - low) / (high - low) * (stop - start)
