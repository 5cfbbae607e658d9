"""Throughput and CPU of bulk traffic as bars, in an SVG written by hand: nothing to install."""

from html import escape

SHOWN = ("tcp up", "tcp down", "4 streams up", "4 streams down")
PANELS = (("mbit", "Gbit/s (more is better)", 1e-3, "{:.2f}"),
          ("us_per_mb", "CPU microseconds per MB (less is better)", 1, "{:.0f}"))
COLOURS = {"vcgate": "#c2410c", "boringtun-cli": "#64748b", "gotatun-cli": "#94a3b8",
           "wireguard-go": "#cbd5e1"}

LABELS = 210
PANEL = 340
BAR = 13
GAP = 12
TOP = 62
FONT = 'font-family="sans-serif" fill="#1e293b"'


def write(report, path):
    """Writes the plot, if there is anything to show."""
    groups = [(f"{load}, {clients} client", report.medians(load, clients))
              for clients in ("offloading", "wireguard-go")
              for load in SHOWN if report.medians(load, clients)]
    if groups:
        path.write_text(svg(groups))


def svg(groups):
    """The picture: a row of bars for each (title, medians by gateway), a column for each panel."""
    rows = sum(len(medians) * BAR + GAP for _, medians in groups)
    width, height = LABELS + PANEL * len(PANELS), TOP + rows + 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
             f' width="{width}" height="{height}">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    parts += legend(groups)
    for column, (_, title, _, _) in enumerate(PANELS):
        parts.append(text(LABELS + column * PANEL, TOP - 14, title, weight="bold"))
    y = TOP
    for title, medians in groups:
        parts.append(text(10, y + (len(medians) * BAR) / 2 + 4, title))
        for gateway, figures in medians.items():
            for column, panel in enumerate(PANELS):
                parts += bar(LABELS + column * PANEL, y, gateway, figures, panel,
                             longest=greatest(groups, panel))
            y += BAR
        y += GAP
    return "\n".join(parts + ["</svg>"]) + "\n"


def legend(groups):
    gateways = dict.fromkeys(gateway for _, medians in groups for gateway in medians)
    for at, gateway in enumerate(gateways):
        x = LABELS + at * 130
        yield rectangle(x, 12, 12, COLOURS.get(gateway, "#e2e8f0"))
        yield text(x + 18, 22, gateway)


def bar(x, y, gateway, figures, panel, longest):
    name, _, factor, form = panel
    if name in figures:
        length = (PANEL - 60) * figures[name] / longest
        yield rectangle(x, y, length, COLOURS.get(gateway, "#e2e8f0"))
        yield text(x + length + 4, y + 10, form.format(figures[name] * factor), size=10)


def greatest(groups, panel):
    values = [figures.get(panel[0], 0) for _, medians in groups for figures in medians.values()]
    return max(values) or 1


def rectangle(x, y, width, colour):
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>'


def text(x, y, what, weight="normal", size=12):
    return (f'<text x="{x:.1f}" y="{y:.1f}" {FONT} font-size="{size}"'
            f' font-weight="{weight}">{escape(what)}</text>')
