"""Plots as SVG, written by hand so that nothing has to be installed.

Colours stand for programs, the same in every plot; the gateway's is the one that stands out.
"""

from html import escape

INK, FAINT, OURS, FLOOR = "#24292f", "#d0d7de", "#cf222e", "#57606a"
OTHERS = ["#0969da", "#1a7f37", "#8250df", "#bf8700", "#1b7c83", "#bc4c00", "#6e7781", "#a475f9"]
FONT = 'font-family="system-ui, sans-serif" font-size="12"'


def colours(names):
    others = iter(OTHERS * 4)
    return {name: OURS if name == "portcullis" else FLOOR if name == "hyper" else next(others) for name in names}


def svg(width, height, parts):
    # A ground of its own: pages may be dark.
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n{ground}\n' + "\n".join(parts) + "\n</svg>\n"


def text(x, y, what, anchor="start", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {FONT} fill="{INK}" text-anchor="{anchor}" {extra}>{escape(str(what))}</text>'


def line(x1, y1, x2, y2, colour=FAINT, width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def decades(low, high):
    """The marks of a logarithmic scale, and where a value stands on it from 0 to 1."""
    from math import ceil, floor, log10

    first, last = floor(log10(low)), ceil(log10(high))
    last = max(last, first + 1)
    marks = [m * 10**power for power in range(first, last) for m in (1, 2, 5)] + [10**last]
    return marks, lambda value: (log10(max(value, 10**first)) - first) / (last - first)


def short(value):
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def bars(title, unit, values, digits=1):
    """One bar a program on a logarithmic scale, the smallest first."""
    rows = sorted(values.items(), key=lambda row: row[1])
    left, right, top, step = 120, 60, 44, 24
    width, height = 720, top + step * len(rows) + 30
    marks, at = decades(min(values.values()) * 0.8, max(values.values()))
    x = lambda value: left + at(value) * (width - left - right)
    colour = colours(sorted(values))
    parts = [text(12, 22, title, extra='font-weight="600"')]
    for mark in marks:
        parts.append(line(x(mark), top - 6, x(mark), height - 26))
        parts.append(text(x(mark), height - 10, short(mark), "middle"))
    for number, (name, value) in enumerate(rows):
        y = top + number * step
        parts.append(text(left - 8, y + 13, name, "end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{x(value) - left:.1f}" height="16" fill="{colour[name]}"/>')
        parts.append(text(x(value) + 5, y + 13, f"{value:.{digits}f}"))
    parts.append(text(width - 12, 22, unit, "end"))
    return svg(width, height, parts)


def curves(title, unit, series):
    """Distributions: the share of requests that took no longer, over the time on a logarithmic scale. `series` has
    (thousandths, value) pairs for each program."""
    left, right, top, bottom = 60, 130, 44, 40
    width, height = 720, 360
    values = [value for points in series.values() for _, value in points if value > 0]
    marks, at = decades(min(values), max(values))
    x = lambda value: left + at(value) * (width - left - right)
    # Each nine as far apart as the one before: tails are what differs.
    from math import log10

    depth = lambda share: -log10(1 - min(share, 999.0) / 1000)
    y = lambda share: height - bottom - depth(share) / depth(999) * (height - top - bottom)
    parts = [text(12, 22, title, extra='font-weight="600"'), text(width - 12, 22, unit, "end")]
    for mark in marks:
        parts += [line(x(mark), top, x(mark), height - bottom), text(x(mark), height - bottom + 16, short(mark), "middle")]
    for share, label in ((0, "0"), (500, "50 %"), (900, "90 %"), (990, "99 %"), (999, "99.9 %")):
        parts += [line(left, y(share), width - right, y(share)), text(left - 6, y(share) + 4, label, "end")]
    colour = colours(sorted(series))
    for number, (name, points) in enumerate(series.items()):
        path = " ".join(f"{x(value):.1f},{y(share):.1f}" for share, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour[name]}" stroke-width="2"/>')
        parts.append(line(width - right + 10, top + 8 + number * 18, width - right + 26, top + 8 + number * 18, colour[name], 3))
        parts.append(text(width - right + 32, top + 12 + number * 18, name))
    return svg(width, height, parts)
