#!/usr/bin/env python3
"""Builds the pages as a website: docs/build.py MDBOOK. The website is target/book.

Pages link to files of the repository outside of docs/, which a website does not have. With SOURCE_URL (such as
https://git.example.org/phoenix/blob/v1) these links lead there; without, the files are copied into the website as plain
text. At the end every link between files of the website is followed.
"""

import html
import html.parser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS, SOURCE, BOOK = ROOT / "docs", ROOT / "target/book-source", ROOT / "target/book"
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)]*)?\))")


def copied(path):
    """Copies a file or folder of the repository into the website; its place there."""
    if path.is_dir():
        place = SOURCE / "source" / path.relative_to(ROOT) / "index.html"
        tracked = subprocess.run(["git", "ls-files", str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
        names = [str((ROOT / line).relative_to(path)) for line in tracked.stdout.splitlines()]
        for name in names:
            copied(path / name)
        links = [urllib.parse.quote(name.removesuffix(".md")) for name in names]
        items = "".join(f'<li><a href="{link}.txt">{html.escape(name)}</a></li>' for link, name in zip(links, names))
        text = f"<!doctype html><title>{path.name}</title><h1>{path.relative_to(ROOT)}</h1><ul>{items}</ul>".encode()
    else:
        # mdBook takes ".md" in a link for a page of its own.
        place = SOURCE / "source" / f"{str(path.relative_to(ROOT)).removesuffix('.md')}.txt"
        text = path.read_bytes()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text)
    return place


def outside(page, match):
    """A link of a page, changed if it leaves docs/."""
    before, target, after = match.groups()
    path = (page.parent / target).resolve()
    if "://" in target or path.is_relative_to(DOCS) or not path.is_relative_to(ROOT):
        return match[0]
    base = os.environ.get("SOURCE_URL")
    if base:
        return f"{before}{base.rstrip('/')}/{path.relative_to(ROOT)}{after}"
    place = SOURCE / page.relative_to(DOCS)
    return f"{before}{os.path.relpath(copied(path), place.parent)})"


class Page(html.parser.HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        self.links += [attrs[name] for name in ("href", "src") if attrs.get(name)]


def broken():
    """Links of the website that lead nowhere."""
    pages = {path: Page(path.read_text()) for path in BOOK.rglob("*.html")}
    for path, page in pages.items():
        # What is served where nothing is found is at no certain place; the printed page is all pages in one.
        for link in [] if path.name in ("404.html", "print.html", "toc.html") else page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(url.fragment)
            if not target.exists() or (target in pages and anchor not in pages[target].anchors):
                yield f"{path.relative_to(BOOK)}: {link}"


def main():
    for folder in (SOURCE, BOOK):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, SOURCE, ignore=shutil.ignore_patterns("*.py", "*.txt"))
    for page in DOCS.rglob("*.md"):
        text = LINK.sub(lambda match: outside(page, match), page.read_text())
        (SOURCE / page.relative_to(DOCS)).write_text(text)
    subprocess.run([sys.argv[1], "build", "--dest-dir", str(BOOK), str(SOURCE)], check=True)
    wrong = list(broken())
    if wrong:
        sys.exit("links that lead nowhere:\n" + "\n".join(wrong))


main()
