#!/usr/bin/env python3
"""Takes the protections of rows.py out, one at a time, and shows which tests notice.

    tests/protections/run.py [--all] [--write] [WORDS ...]    all rows, or those whose name has one of the words
    tests/protections/run.py --check                          only see that the list fits the sources (no build)

All rows are put into the sources at once, each behind a switch, so that there is one build; the environment variable
PHOENIX_TAKEN_OUT names the row that is out while the tests run. The sources are put back at the end: run it on a clean
checkout. Each row is tried with the tests that rows.py gives for it; --all tries every test in process. A row that
nothing notices is UNNOTICED, and the exit code is 1. --write puts the answers into docs/testing.md.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

sys.dont_write_bytecode = True
from rows import FILES

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs/testing.md"
ROW = re.compile(r"^\| (?P<name>[^|]+) \| (?P<told>[^|]*) \|$", re.M)
MODULES = sorted(path.stem for path in (ROOT / "tests/engine").iterdir() if path.name != "main.rs")
# In this order: the quick ones first. The engine's modules have PATIENCE each.
ALL = ["lib", *(f"engine={module}::" for module in MODULES), "standalone", "crash"]
# Without a protection tests may wait for what never comes; what failed until then is enough.
PATIENCE = 240
# Tests that fail write nothing into the checkout.
CALM = {"INSTA_UPDATE": "no", "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1"}

SWITCH = '''
/// Whether a row of tests/protections is out (written by its run.py, never committed).
#[doc(hidden)]
pub fn taken_out(row: &str) -> bool {
    static ROW: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ROW.get_or_init(|| std::env::var("PHOENIX_TAKEN_OUT").unwrap_or_default()) == row
}
'''


def edits():
    """Every replacement: row, file, text, what replaces it."""
    for file, rows in FILES.items():
        for name, _, *pairs in rows:
            for old, new in zip(pairs[::2], pairs[1::2], strict=True):
                new = re.sub(r"OUT\[(.*?)\]", lambda m: f'crate::taken_out("{m[1]}")', new)
                yield name, file, old, re.sub(r"\bOUT\b", f'crate::taken_out("{name}")', new)


def switched():
    """Texts of the files with every row behind its switch; what is wrong with the list."""
    texts, wrong, taken = {}, [], {}
    for name, file, old, new in edits():
        text = (ROOT / file).read_text()
        if (found := text.count(old)) != 1:
            wrong.append(f"{name}: {file} has its text {found} times: {old!r}")
            continue
        at = text.index(old)
        for other, start, end in taken.get(file, []):
            if at < end and start < at + len(old):
                wrong.append(f"{name}: its text in {file} overlaps that of: {other}")
        taken.setdefault(file, []).append((name, at, at + len(old)))
        texts.setdefault(file, []).append((at, old, new))
    for file, replaced in texts.items():
        text = (ROOT / file).read_text()
        for at, old, new in sorted(replaced, reverse=True):
            text = text[:at] + new + text[at + len(old):]
        texts[file] = text
    return texts, wrong


def check():
    """Whether each row fits the sources once and stands in the docs."""
    _, wrong = switched()
    names = [row[0] for rows in FILES.values() for row in rows]
    wrong += [f"{name}: two rows have this name" for name in set(names) if names.count(name) > 1]
    told = {m["name"]: m["told"] for m in ROW.finditer(DOCS.read_text())}
    wrong += [f"{name}: not in docs/testing.md: run with --write" for name in names if name not in told]
    unknown = [(row[0], target) for rows in FILES.values() for row in rows for target in row[1].split()]
    wrong += [f"{name}: no tests {target}" for name, target in unknown if place(target) is None]
    for line in wrong:
        print(line, file=sys.stderr)
    return not wrong


def build(targets):
    """Test programs by target."""
    names = sum((["--lib"] if t == "lib" else ["--test", t] for t in targets), [])
    run = subprocess.run(["cargo", "test", "--no-run", "--message-format=json-render-diagnostics", *names],
                         cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        sys.exit("it does not compile with the switches")
    programs = {}
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("profile", {}).get("test"):
            target = message["target"]
            programs["lib" if "lib" in target["kind"] else target["name"]] = message["executable"]
    return programs


def failing(programs, targets, row, every=False):
    """Tests that fail with the row out: those of the first target that notices, or of every one."""
    found = []
    for target in targets:
        name, _, only = target.partition("=")
        run = subprocess.run(["timeout", str(PATIENCE), programs[name], *([only] if only else [])],
                             cwd=ROOT, env={**os.environ, "PHOENIX_TAKEN_OUT": row, **CALM},
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        found += re.findall(r"^test (\S+) \.\.\. FAILED", run.stdout, re.M)
        if run.returncode not in (0, 101, 124) and not found:
            # A stack that overflows, for one, ends the program.
            found.append(f"{only or name} (it ends the test program)")
        if found and not every:
            break
    return found


def words(tests):
    """Names of tests for the table."""
    short = [t.removeprefix("plan::protected::").removeprefix("tests::") for t in tests]
    more = f" and {len(short) - 3} more" if len(short) > 3 else ""
    return ", ".join(short[:3]) + more


def write(answers):
    """Puts answers into the table of the docs, in the order of the list."""
    text = DOCS.read_text()
    start, end = "| protection | noticed by |\n| --- | --- |\n", "\n<!-- protections end -->"
    before, rest = text.split(start)
    table, after = rest.split(end)
    told = {m["name"]: m["told"] for m in ROW.finditer(table)} | answers
    lines = [f"| {row[0]} | {told[row[0]]} |" for rows in FILES.values() for row in rows if row[0] in told]
    DOCS.write_text(before + start + "\n".join(lines) + "\n" + end + after)


def main():
    options = {a for a in sys.argv[1:] if a.startswith("--")}
    wanted = [a for a in sys.argv[1:] if not a.startswith("--")]
    if "--check" in options:
        sys.exit(0 if check() else 1)
    if subprocess.run(["git", "status", "--porcelain", "src"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout:
        sys.exit("src/ has changes that are not committed")
    texts, wrong = switched()
    if wrong:
        sys.exit("\n".join(wrong))
    rows = [row for rows in FILES.values() for row in rows if not wanted or any(w in row[0] for w in wanted)]
    tests_of = {row[0]: ALL if "--all" in options else row[1].split() for row in rows}
    needed = sorted({target for targets in tests_of.values() for target in targets}, key=lambda t: (place(t), t))
    lib = ROOT / "src/lib.rs"
    old = {path: path.read_text() for path in [lib, *(ROOT / file for file in texts)]}
    answers = {}
    try:
        for file, text in texts.items():
            (ROOT / file).write_text(text)
        lib.write_text(lib.read_text() + SWITCH)
        programs = build(sorted({target.partition("=")[0] for target in needed}))
        if tests := failing(programs, needed, ""):
            sys.exit(f"tests fail although nothing is out: {tests}")
        for name, targets in tests_of.items():
            tests = failing(programs, targets, name, "--all" in options)
            answers[name] = words(tests) if tests else "UNNOTICED"
            print(f"| {name} | {answers[name]} |", flush=True)
    finally:
        for path, text in old.items():
            path.write_text(text)
    if "--write" in options:
        write(answers)
    sys.exit(1 if "UNNOTICED" in answers.values() else 0)


def place(target):
    """Where in ALL the tests are that a row gives."""
    return next((n for n, whole in enumerate(ALL) if target.startswith(whole)), None)


if __name__ == "__main__":
    main()
