"""Tries small bugs against the tests: `make mutants`, docs/testing.md.

    tests/mutants/run.py [--sample N] [--seed S] [--patience SECONDS] [--again] [--built] FOLDER ...

All mutants of the folders (generate.py) are put into the sources at once, each behind a switch, so that there is one
build; those that do not compile are left out. The sources are put back when the test programs are built: run it on a
clean checkout. Each test runs once to see which mutants it reaches, and each mutant (or N of them, drawn with S) is
tried with those tests, the quick ones first, until one fails or --patience seconds of them are over. Who survives is printed; --again
tries those of the last run only. --built takes the test programs of the last run, and what their tests reached.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
from generate import Source

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target/mutants"
# The quick ones of the test programs that are about the core.
PROGRAMS = ["lib", "engine", "scripts"]
SWITCH = '''
/// Whether a mutant is in (written by tests/mutants, never committed).
#[doc(hidden)]
pub fn mutant(number: u32) -> bool {
    use std::io::Write;
    static IN: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    static SEEN: std::sync::Mutex<std::collections::BTreeSet<u32>> = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let set = *IN.get_or_init(|| std::env::var("PHOENIX_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or_default());
    if set == u32::MAX && SEEN.lock().is_ok_and(|mut seen| seen.insert(number)) {
        let path = std::env::var("PHOENIX_MUTANTS_SEEN").unwrap_or_default();
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{number}"));
    }
    set == number
}
'''
RECORD = "4294967295"


def sources(folders):
    """The sources with mutants, by path. Numbers begin with 1, and modules for tests have none."""
    paths = sorted(p for f in folders for p in ([ROOT / f] if f.endswith(".rs") else (ROOT / f).rglob("*.rs")))
    tests = set()
    for path in paths:
        below = path.parent if path.stem == "mod" else path.with_suffix("")
        tests.update(below / name for name in Source(path.read_text(), 1).tests)
    found, first = {}, 1
    for path in paths:
        if path.with_suffix("") not in tests and not tests.intersection(path.parents):
            found[path] = Source(path.read_text(), first)
            first += len(found[path].mutants)
    return found


def cargo(*words):
    run = subprocess.run(["cargo", *words, "--message-format=json"], cwd=ROOT, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True, check=False)
    return run.returncode, [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def to_blame(messages, places):
    """Mutants in which the compiler found errors: the innermost of each."""
    blamed = set()
    for error in (m["message"] for m in messages if m.get("message", {}).get("level") == "error"):
        spans = sorted(error["spans"], key=lambda span: not span["is_primary"])
        within = [place for span in spans for place in sorted(places.get(span["file_name"], []), key=lambda p: p[1] - p[0])
                  if place[0] <= span["byte_start"] and span["byte_end"] <= place[1]]
        if spans and not within:
            sys.exit(f"no mutant is to blame for:\n{error['rendered']}")
        blamed.update(within[0][2] if within else [])
    return blamed


def build(files):
    """Test programs with all mutants that compile, and the numbers of those that do not."""
    lib, out = ROOT / "src/lib.rs", set()
    old = {path: path.read_text() for path in [lib, *files]}
    try:
        lib.write_text(old[lib] + SWITCH)
        while True:
            places = {}
            for path, source in files.items():
                text, places[str(path.relative_to(ROOT))] = source.text(out)
                path.write_text(text)
            code, messages = cargo("check", "--lib")
            if code == 0:
                break
            out |= (blamed := to_blame(messages, places))
            print(f"{len(blamed)} do not compile", file=sys.stderr)
            if not blamed:
                sys.exit("it does not compile")
        code, messages = cargo("test", "--no-run", *(w for p in PROGRAMS for w in (["--lib"] if p == "lib" else ["--test", p])))
        if code != 0:
            sys.exit("the tests do not compile")
    finally:
        for path, text in old.items():
            path.write_text(text)
    for made in (m for m in messages if m.get("executable") and m["profile"]["test"]):
        WORK.mkdir(parents=True, exist_ok=True)
        name = "lib" if "lib" in made["target"]["kind"] else made["target"]["name"]
        shutil.copy(made["executable"], WORK / name)
    return out


def failing(program, names, limit, **variables):
    """The first test that fails or takes too long, if any does."""
    calm = {"INSTA_UPDATE": "no", "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1", "CARGO_MANIFEST_DIR": str(ROOT)}
    run = subprocess.Popen([WORK / program, "--exact", "--test-threads=1", *names], cwd=ROOT, text=True,
                           env={**os.environ, **calm, **variables}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30,) * 2))
    clock = threading.Timer(limit, run.kill)
    clock.start()
    for line in run.stdout:
        if failed := re.match(r"test (\S+) \.\.\. FAILED", line):
            run.kill()
            run.wait()
            clock.cancel()
            return failed[1]
    clock.cancel()
    return None if run.wait() == 0 else names[0]


def reach(item):
    """How long a test takes and which mutants it reaches."""
    program, name = item
    seen = WORK / "seen" / re.sub(r"\W+", "-", f"{program} {name}")
    seen.unlink(missing_ok=True)
    start = time.monotonic()
    if failing(program, [name], 600, PHOENIX_MUTANT=RECORD, PHOENIX_MUTANTS_SEEN=str(seen)):
        print(f"left out, since it fails by itself: {program} {name}", file=sys.stderr)
        return None
    numbers = [int(line) for line in seen.read_text().split()] if seen.exists() else []
    return program, name, time.monotonic() - start, numbers


def tests():
    """Every test of the programs."""
    for program in PROGRAMS:
        listed = subprocess.run([WORK / program, "--list"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
        yield from ((program, name) for name in re.findall(r"^(\S+): test$", listed, re.M))


def survives(number, found, noticed, patience):
    """Whether no test notices a mutant. The tests run in batches that take longer and longer, first those that take
    little time for how often they noticed others."""
    found = [(seconds, program, name) for program, name, seconds, seen in found if number in seen]
    found.sort(key=lambda test: test[0] / (1 + noticed[test[2]]))
    share, spent = 1, 0
    while found and spent < patience:
        batch, took = [], 0
        while found and (not batch or took + found[0][0] < share):
            batch.append(found.pop(0))
            took += batch[-1][0]
        for program in sorted({program for _, program, _ in batch}):
            names = [name for _, p, name in batch if p == program]
            if first := failing(program, names, 20 + 8 * took, PHOENIX_MUTANT=str(number)):
                noticed[first] += 1
                return False
        share *= 3
        spent += took
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=120)
    for option in ("--again", "--built"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    if subprocess.run(["git", "status", "--porcelain", "src"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout:
        sys.exit("src/ has changes that are not committed")
    files = sources(options.folders)
    WORK.mkdir(parents=True, exist_ok=True)
    known = WORK / "built.json"
    out, found = json.loads(known.read_text()) if options.built else (build(files), None)
    told = {n: f"{path.relative_to(ROOT)}:{line}: {what}" for path, s in files.items() for n, (line, what) in s.mutants.items()}
    wanted = sorted(told.keys() - set(out))
    if options.again:
        left = set((WORK / "survivors").read_text().splitlines())
        wanted = [n for n in wanted if told[n] in left]
    elif options.sample:
        wanted = random.Random(options.seed).sample(wanted, min(options.sample, len(wanted)))
    (WORK / "seen").mkdir(exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = found or list(filter(None, pool.map(reach, tests())))
        known.write_text(json.dumps([sorted(out), found]))
        found = [(program, name, seconds, set(seen)) for program, name, seconds, seen in found]
        reached = set().union(*(seen for *_, seen in found))
        survivors, noticed = [], collections.Counter()
        for n, alive in zip(wanted, pool.map(lambda n: survives(n, found, noticed, options.patience), wanted)):
            if alive:
                survivors.append(told[n])
                print(told[n] + ("" if n in reached else " (no test comes here)"), flush=True)
    (WORK / "survivors").write_text("".join(f"{line}\n" for line in survivors))
    caught = len(wanted) - len(survivors)
    print(f"{caught} of {len(wanted)} mutants were caught ({caught / max(1, len(wanted)):.1%}); {len(told)} were made, {len(out)} did not compile")


if __name__ == "__main__":
    main()
