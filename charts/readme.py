#!/usr/bin/env python3
"""Writes the table of values in charts/phoenix/README.md from the comments in values.yaml; --check only compares."""

import pathlib
import sys

CHART = pathlib.Path(__file__).parent / "phoenix"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


def values(lines):
    """Path, default and comment of every value. Where lines that are indented follow and no comment is above them, they
    are the default."""
    rows, path, comment = [], [], []
    for line in lines:
        text = line.strip()
        if text.startswith("#"):
            comment.append(text[1:].strip())
            continue
        if text and ":" in text:
            key, value = (part.strip() for part in text.split(":", 1))
            depth = (len(line) - len(line.lstrip())) // 2
            path[depth:] = [key]
            if comment:
                rows.append([".".join(path), value, " ".join(comment)])
            elif value and rows:
                # What is below a commented key without comments of its own is that key's default.
                inner = ".".join(path).removeprefix(rows[-1][0] + ".")
                rows[-1][1] += f"{', ' if rows[-1][1] else ''}{inner}: {value}"
        comment = []
    return rows


def table(rows):
    lines = ["| value | default | |\n", "| --- | --- | --- |\n"]
    for path, default, comment in rows:
        lines.append(f"| `{path}` | `{default}` | {comment.replace('|', chr(92) + '|')} |\n")
    return "".join(lines)


def main():
    readme = CHART / "README.md"
    old = readme.read_text()
    head, rest = old.split(BEGIN)
    _, tail = rest.split(END)
    rows = values((CHART / "values.yaml").read_text().splitlines())
    new = head + BEGIN + table(rows) + END + tail
    if "--check" not in sys.argv:
        readme.write_text(new)
    elif new != old:
        sys.exit("charts/phoenix/README.md is not of today's values.yaml: run charts/readme.py")


main()
