"""Pieces of HTML for the report. This module escapes all text it is given."""

import base64
import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1c1f23; --soft: #59616b; --line: #d5d9de;
  --panel: #f5f6f8; --accent: #0b5cad; --warn-ground: #fff4d6; --warn-ink: #5a3d00; --warn-line: #d99a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181c; --ink: #e7eaee; --soft: #a3acb7; --line: #3a4149;
  --panel: #1e2329; --accent: #74b3f5; --warn-ground: #3a2d0b; --warn-ink: #ffe2a0; --warn-line: #b98a1c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.25rem 3rem; max-width: 64rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.75rem 0 0.25rem; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 0.5rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
p { margin: 0.4rem 0; max-width: 48rem; }
.soft { color: var(--soft); font-size: 0.92rem; }
.research { border: 2px solid var(--warn-line); background: var(--warn-ground); color: var(--warn-ink);
  border-radius: 6px; padding: 0.5rem 0.9rem; font-weight: 600; }
.warnings { border-left: 5px solid var(--warn-line); background: var(--warn-ground); color: var(--warn-ink);
  padding: 0.5rem 1rem; margin: 1rem 0; }
.warnings ul { margin: 0.25rem 0; padding-left: 1.25rem; }
.score { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; align-items: center; background: var(--panel);
  border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 1rem 0; }
.number { font-size: 3rem; font-weight: 700; line-height: 1; }
.scale { flex: 1 1 16rem; min-width: 0; }
.scale svg { display: block; width: 100%; height: auto; max-width: 34rem; }
.scale text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: 0.75rem 0; }
.scroll:focus-visible { outline: 3px solid var(--accent); }
figure { margin: 0.75rem 0 1.25rem; }
figure .scroll { background: #fbfbf9; margin: 0; }
figure img { display: block; width: 100%; min-width: 36rem; height: auto; }
figure.narrow .scroll { max-width: 40rem; }
figure.narrow img { min-width: 0; }
figcaption { color: var(--soft); font-size: 0.92rem; padding-top: 0.35rem; max-width: 48rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.95rem; }
caption { text-align: left; padding: 0.5rem 0.6rem; color: var(--soft); font-size: 0.92rem; }
th, td { padding: 0.35rem 0.6rem; border-top: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, table.text td, table.text th { text-align: left; }
table.numbers { overflow-wrap: normal; }
thead th { border-top: 0; background: var(--panel); vertical-align: bottom; }
table.numbers td, table.numbers tbody th { white-space: nowrap; }
table.text tbody th { font-weight: 600; width: 15rem; max-width: 40vw; }
@media print { :root { --ground: #fff; --ink: #000; --soft: #333; --line: #999; --panel: #f2f2f2;
  --warn-ground: #fff; --warn-ink: #000; --warn-line: #000; }
  body { max-width: none; padding: 0; font-size: 10.5pt; } .scroll { overflow: visible; }
  figure, table, .score { break-inside: avoid; } h2 { break-after: avoid; } figure img { min-width: 0; } }
"""

# Keeps browsers from fetching anything for this page, whatever its text contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, body: Sequence[str]) -> str:
    """The whole document. ``title`` is text; ``body`` is HTML from this module."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Any value as escaped text."""
    return html.escape(str(value))


def paragraph(value: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def missing(what: str, reason: str) -> str:
    """A line in place of something the report cannot show."""
    return paragraph(f"{what}: not available ({reason}).")


def heading(level: int, value: str) -> str:
    return f"<h{level}>{text(value)}</h{level}>"


def warnings(values: Sequence[str]) -> str:
    """A box that lists at least one warning."""
    items = "".join(f"<li>{text(value)}</li>" for value in values)
    return f'<div class="warnings" role="note"><strong>Warnings</strong><ul>{items}</ul></div>'


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[object]], kind: str = "numbers") -> str:
    """A table whose first column names its rows. A wide table scrolls. ``kind`` is "numbers" or "text"."""
    head = "".join(f'<th scope="col">{text(h)}</th>' for h in headers)
    lines = "".join(
        f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(x)}</td>" for x in rest)}</tr>\n'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table class="{kind}">'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>"
    )


def figure(image: bytes, alternative: str, caption: str, narrow: bool = False) -> str:
    """A PNG or JPEG inside the page. ``alternative`` describes it to readers who cannot see it."""
    kind = "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"
    data = base64.b64encode(image).decode("ascii")
    return (
        f'<figure class="{"narrow" if narrow else "wide"}">'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<img src="data:{kind};base64,{data}" alt="{text(alternative)}"></div>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def scale(low: float, high: float, score: float, interval: tuple[float, float] | None, label: str) -> str:
    """A drawing of the scale with the score and its interval. Both may lie outside the scale."""
    ends = [low, high, score, *(interval or ())]
    first, last = min(ends), max(ends)

    def x(value: float) -> float:
        return 20 + 360 * (value - first) / ((last - first) or 1)

    marks = [low + i * (high - low) / 4 for i in range(5)]
    ticks = "".join(
        f'<line x1="{x(m):.1f}" x2="{x(m):.1f}" y1="24" y2="36" stroke="currentColor"/>'
        f'<text x="{x(m):.1f}" y="52" text-anchor="middle">{m:g}</text>'
        for m in marks
    )
    band = ""
    if interval:
        band = (
            f'<rect x="{x(interval[0]):.1f}" width="{max(x(interval[1]) - x(interval[0]), 1):.1f}" y="22" height="16"'
            ' rx="3" fill="var(--accent)" opacity="0.35"/>'
        )
    return (
        f'<div class="scale"><svg viewBox="0 0 400 58" role="img" aria-label="{text(label)}">'
        f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="30" y2="30" stroke="currentColor" stroke-width="2"/>{ticks}'
        f'{band}<circle cx="{x(score):.1f}" cy="30" r="8" fill="var(--accent)" stroke="var(--ground)" '
        'stroke-width="2"/></svg></div>'
    )
