#!/usr/bin/env python3
"""Draws each docs/images/*.txt as an SVG of the same name; --check only compares.

A text has one thing a line: `title TEXT`, `box NAME COLUMN ROW TEXT [| TEXT …]`, `note NAME COLUMN ROW TEXT`, and
`arrow FROM TO [TEXT]`. Boxes have their own colours and letters, so that a page may be light or dark.
"""

import html
import pathlib
import sys

WIDTH, HEIGHT, ACROSS, DOWN, EDGE = 190, 64, 320, 124, 12
FILL = {"box": "#1f5f9e", "note": "#57606a"}
LINE = "#8b949e"


def read(path):
    """The title, the boxes by name, and the arrows of a text."""
    title, boxes, arrows = "", {}, []
    for line in path.read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "title":
            title = rest
        elif word in FILL:
            name, column, row, text = rest.split(" ", 3)
            boxes[name] = (word, float(column), float(row), [part.strip() for part in text.split("|")])
        elif word == "arrow":
            start, end, *label = rest.split(" ", 2)
            arrows.append((start, end, label[0] if label else ""))
    return title, boxes, arrows


def corner(box):
    return EDGE + box[1] * ACROSS, EDGE + box[2] * DOWN


def border(box, towards):
    """Where the line from the box's middle to another point leaves the box."""
    x, y = (at + half for at, half in zip(corner(box), (WIDTH / 2, HEIGHT / 2)))
    dx, dy = towards[0] - x, towards[1] - y
    share = min(WIDTH / 2 / abs(dx) if dx else 9, HEIGHT / 2 / abs(dy) if dy else 9)
    return x + dx * share, y + dy * share


def letters(x, y, size, text, fill="#ffffff"):
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}">{html.escape(text)}</text>'


def draw(path):
    title, boxes, arrows = read(path)
    right = max(corner(box)[0] for box in boxes.values()) + WIDTH + EDGE
    bottom = max(corner(box)[1] for box in boxes.values()) + HEIGHT + EDGE
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:g} {bottom:g}" width="{right:g}"'
        f' font-family="system-ui, sans-serif" text-anchor="middle" role="img" aria-label="{html.escape(title)}">',
        f"<title>{html.escape(title)}</title>",
        f'<defs><marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
        f'<path d="M0 0L9 4L0 8z" fill="{LINE}"/></marker></defs>',
    ]
    labels = []
    for start, end, label in arrows:
        middles = [[at + half for at, half in zip(corner(boxes[name]), (WIDTH / 2, HEIGHT / 2))] for name in (end, start)]
        (x1, y1), (x2, y2) = border(boxes[start], middles[0]), border(boxes[end], middles[1])
        out.append(
            f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="{LINE}" stroke-width="2"'
            ' marker-end="url(#head)"/>'
        )
        if label:
            x, y, wide = (x1 + x2) / 2, (y1 + y2) / 2, len(label) * 6.8 + 14
            labels.append(
                f'<rect x="{x - wide / 2:.0f}" y="{y - 10:.0f}" width="{wide:.0f}" height="20" rx="10" fill="{FILL["note"]}"/>'
                + letters(round(x), round(y + 4), 12, label)
            )
    for box in boxes.values():
        (x, y), lines = corner(box), box[3]
        out.append(f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{FILL[box[0]]}"/>')
        first = y + HEIGHT / 2 - (len(lines) - 1) * 9 + 5
        for number, line in enumerate(lines):
            out.append(letters(x + WIDTH / 2, first + number * 18, 13 if number or box[0] == "note" else 15, line))
    return "\n".join([*out, *labels, "</svg>", ""])


def main():
    stale = []
    for path in sorted(pathlib.Path(__file__).parent.glob("*.txt")):
        picture, drawn = path.with_suffix(".svg"), draw(path)
        if "--check" not in sys.argv:
            picture.write_text(drawn)
        elif not picture.exists() or picture.read_text() != drawn:
            stale.append(picture.name)
    if stale:
        sys.exit(f"out of date, run docs/images/draw.py: {', '.join(stale)}")


main()
