#!/usr/bin/env python3
"""Makes docs/evidence.md from runs: `make evidence`.

    tests/evidence/run.py [--schedules N] [--walks N] [--seeds N] [--stride N] [--objects N,N…] [--guests N]
                          [--protections] [--mutants N] [--optimized] [--only PART …]

Each part runs one command, whose output is kept in target/evidence. --only runs the named parts and takes the others from
there, as far as they have run; a part that has not is left out of the page. --protections takes every protection out once
(tests/protections), --mutants tries so many generated ones (tests/mutants, slow): both build anew and need a clean checkout.
With PEER the requests of somebody else's program are counted, too (benches/peers.rs).
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target/evidence"
PAGE = ROOT / "docs/evidence.md"
PROGRAMS = ["lib", "engine", "crash", "operator", "exhaustive", "standalone"]

# Of peers nobody is run here: what they took on the same simulator on an earlier day, at commit fd82199: kubemox 0.6.5,
# and terraform with bpg 0.111.
EARLIER = {
    "full": ("requests a guest, 50 full clones", "kubemox 35"),
    "linked": ("requests a guest, 50 linked clones", "terraform 30"),
    "image": ("requests a guest, 50 from an image", "terraform 30"),
}


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--walks", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--stride", type=int, default=5)
    parser.add_argument("--objects", default="250,500,1000")
    parser.add_argument("--guests", type=int, default=50)
    parser.add_argument("--protections", action="store_true")
    parser.add_argument("--mutants", type=int, default=0)
    parser.add_argument("--optimized", action="store_true")
    parser.add_argument("--only", nargs="*")
    return parser.parse_args()


def parts(chosen):
    """Each part: its name, its command as people type it, and the environment that says how much."""
    test = "cargo test --profile soak" if chosen.optimized else "cargo test"
    bench = "cargo bench" if chosen.optimized else "cargo bench --profile dev"
    listed = [("tests", f"{test} --lib --test engine --test crash --test operator --test exhaustive --test standalone -- --list")]
    searches = [
        ("schedules", f"{test} --test crash schedules::random_schedules_end_alike -- --nocapture",
         {"PHOENIX_SCHEDULES": chosen.schedules}),
        ("states", f"{test} --test exhaustive -- --nocapture", {}),
        ("walks", f"{test} --test engine walks:: -- --nocapture", {"PHOENIX_WALKS": chosen.walks}),
        ("seeds", f"{test} --test operator seeds:: -- --nocapture", {"PHOENIX_SEEDS": chosen.seeds}),
        ("moments", f"{test} --test operator moments:: -- --nocapture", {"PHOENIX_STRIDE": chosen.stride}),
    ]
    benches = [
        ("queue", f"{bench} --bench queue -- {chosen.guests}", {}),
        ("makespan", f"{bench} --bench makespan", {}),
        ("scale", f"{bench} --bench scale -- {chosen.objects.replace(',', ' ')}", {}),
        ("peers", f"{bench} --bench peers -- {chosen.guests}", {}),
    ]
    changed = []
    if chosen.protections:
        changed.append(("protections", "tests/protections/run.py", {}))
    if chosen.mutants:
        changed.append(("mutants", f'make mutants MUTANTS="--sample {chosen.mutants} --seed 1"', {}))
    return [(name, command, {}) for name, command in listed] + searches + benches + changed


def run(name, command, environment):
    """Runs a part and keeps what it says; ends everything where it fails."""
    told = " ".join([f"{key}={value}" for key, value in environment.items()] + [command])
    print(f"{name}: {told}", flush=True)
    begin = time.monotonic()
    environment = {key: str(value) for key, value in environment.items()}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env={**os.environ, **environment},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-4000:]}\n{name} fails")
    seconds = round(time.monotonic() - begin)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    kept = {"command": told, "seconds": seconds, "commit": commit.stdout.strip(), "output": done.stdout}
    (WORK / f"{name}.json").write_text(json.dumps(kept, indent=1))


class Kept:
    """The parts that have run."""

    def __init__(self):
        self.parts = {path.stem: json.loads(path.read_text()) for path in WORK.glob("*.json")}

    def find(self, part, pattern):
        """What the pattern finds in a part, each time as a tuple of its groups; nothing where it has not run."""
        found = re.findall(pattern, self.parts[part]["output"], re.M) if part in self.parts else []
        if part in self.parts and not found:
            sys.exit(f"{part}: its output has no line like {pattern}")
        return found

    def command(self, part):
        """The command of a part, and beside it the time that it took."""
        return f"`{self.parts[part]['command']}` ({self.parts[part]['seconds']} s)"


def rows_by_file():
    """The protections by file."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(ROOT / "tests/protections"))
    from rows import FILES
    return {file: [row[0] for row in rows] for file, rows in FILES.items()}


def of_promise(promise, files, named):
    """The protections of a promise: those that it names, and of a file those that nobody names."""
    rows = []
    for name in promise["protections"]:
        rows += [row for row in files[name] if row not in named] if name in files else [name]
    return rows


def listed(kept):
    """Tests by program, as the programs list them."""
    programs, program = {}, None
    for line in kept.parts["tests"]["output"].splitlines():
        if found := re.match(r"\s+Running (?:unittests src/(lib)\.rs|tests/(\w+)/main\.rs)", line):
            program = found[1] or found[2]
        elif line.endswith(": test"):
            programs.setdefault(program, []).append(line.removesuffix(": test"))
    return programs


def number_of(tests, name):
    """How many tests have this name, or are in this module."""
    program, path = name.split(" ")
    found = [t for t in tests[program] if t == path or t.startswith(path + "::")]
    if not found:
        sys.exit(f"no tests {name}")
    return len(found)


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def promises(kept):
    promised = json.loads((ROOT / "tests/evidence/promises.json").read_text())
    files, tests = rows_by_file(), listed(kept)
    named = {name for promise in promised for name in promise["protections"]}
    text, rows = "", []
    for promise in promised:
        own = of_promise(promise, files, named)
        counted = [(name, number_of(tests, name)) for name in promise["tests"]]
        rows.append([promise["name"], sum(n for _, n in counted), len(own)])
        text += f"\n### {promise['name']}\n\n{promise['promise']}\n\n"
        text += "Tests: " + ", ".join(f"`{name}` ({n})" for name, n in counted) + ".\n"
        if own:
            text += "\nProtections: " + "; ".join(own) + ".\n"
    total = sum(len(rows) for rows in files.values())
    all_tests = sum(len(names) for names in tests.values())
    head = f"""## Promises

{all_tests} tests in {len(tests)} programs, counted by {kept.command('tests')}, hold them; some hold more than one. A protection
is a piece of code behind a promise, of which it is known which tests fail without it: there are {total}, each with its tests in
[testing](testing.md#what-notices-when-a-protection-is-gone){noticed(kept, total)}.

"""
    return head + table(["promise", "tests", "protections"], rows) + text


def noticed(kept, total):
    """Whether each protection was noticed when it was out."""
    if "protections" not in kept.parts:
        return ""
    missed = kept.parts["protections"]["output"].count("UNNOTICED")
    tried = len(kept.find("protections", r"^\| [^|]+ \| [^|]+ \|$"))
    return f". In this run {tried} of {total} were taken out, one after the other, and {tried - missed} of them noticed: {kept.command('protections')}"


def searches(kept):
    rows = []
    for number, each in kept.find("schedules", r"\b(\d+) schedules, \d+ a second, (\d+) requests each"):
        (steps, ways), = kept.find("schedules", r"\bmet: (\d+) steps, (\d+) of step")
        what = f"{number} schedules of a lifecycle with several mishaps, seeds 0 to {int(number) - 1}"
        rows.append([what, f"{steps} steps met {ways} combinations of step, fault and position; {each} requests each",
                     kept.command("schedules")])
    states = kept.find("states", r"(\w+): (\d+) runs with up to (\d+) deviations, (\d+) states")
    if states:
        runs, found = (sum(int(world[n]) for world in states) for n in (1, 3))
        worlds = ", ".join(f"{name} {n}" for name, _, _, n in sorted(states))
        rows.append([f"{runs} runs of {len(states)} small worlds with two operators, every write in other orders and with other fates, up to {states[0][2]} deviation",
                     f"{found} states ({worlds})", kept.command("states")])
    walks = kept.find("walks", r"\b(\d+) walks in [^,]+, (\d+) specs that admission refused; (\d+) edits: Ready after (\d+), told why not after\s+(\d+)")
    if walks:
        number, refused, edits, ready, told = (sum(int(half[n]) for half in walks) for n in range(5))
        rows.append([f"{number} walks over specs, seeds 0 to {number - 1}",
                     f"{number} first specs and {edits} edits: Ready after {ready}, told why not after {told}; admission refused {refused} more",
                     kept.command("walks")])
    for number, first in kept.find("seeds", r"\b(\d+) seeds from (\d+)"):
        rows.append([f"{number} lives of whole operators in bad weather, seeds {first} to {int(first) + int(number) - 1}, each twice",
                     "the same trace both times, and the calm end", kept.command("seeds")])
    moments = kept.find("moments", r"(?:^|\.\.\. )([^:\n]+): (\d+) moments of (\d+)")
    if moments:
        tried, of = (sum(int(m[n]) for m in moments) for n in (1, 2))
        rows.append([f"{tried} moments of {of} before a write arrives, in {len(moments)} ways in which the world changes meanwhile",
                     "the end of a life without", kept.command("moments")])
    mutants = kept.find("mutants", r"^(\d+) of (\d+) mutants were caught")
    for caught, of in mutants:
        rows.append([f"{of} generated mutants", f"{caught} noticed", kept.command("mutants")])
    text = """## Searches

None of these found a failure in this run. How each works says [testing](testing.md#random-schedules).

""" + table(["what", "what it came to", "command"], rows)
    if not mutants:
        text += """
Generated mutants take hours and were not tried in this run: the last sample is in [testing](testing.md#generated-mutants).
"""
    return text


def figures(kept):
    rows, beside = [], []
    title = {"full clones": "full", "linked clones": "linked", "from an image": "image"}
    queue = kept.find("queue", r"^(full clones|linked clones|from an image): (\d+) guests in ([\d.]+) s, limit ([\d.]+) s, ratio ([\d.]+); a guest: ([\d.]+) requests, ([\d.]+) status writes")
    for name, guests, seconds, limit, ratio, requests, writes in queue:
        what, peer = EARLIER[title[name]]
        rows.append([f"requests a guest, {guests} {name}", requests, peer])
        writer = "kubemox 14" if name != "linked clones" else "–"
        rows.append([f"status writes a guest, {guests} {name}", writes, writer])
        beside.append([f"{guests} {name}", ratio, f"{seconds} s of {limit} s", LIMITS[title[name]]])
    fleets = kept.find("makespan", r"^(.+): (\d+) objects in ([\d.]+) s, limit ([\d.]+) s \((.+)\), ratio ([\d.]+)$")
    for name, objects, seconds, limit, what, ratio in fleets:
        beside.append([f"{name}, {objects} objects of a real user", ratio, f"{seconds} s of {limit} s", what])
    scale = kept.find("scale", r"^ *(\d+) objects: .*; begun with in (\d+) ms and (\d+) requests, (\d+) writes; one more: ([\d.]+) ms, (\d+) requests, (\d+) writes; found again without status with [\d.]+ ms and ([\d.]+) requests each, ([\d.]+) of them")
    for number, _, requests, writes, ms, one, _, again, configs in scale:
        rows.append([f"requests to begin with {number} objects again, an object", f"{int(requests) / int(number):.1f}, and {writes} status writes", "–"])
        rows.append([f"requests to make one more among {number}", f"{one} ({ms} ms of processor time)", "kubemox 35 at 50 (70 ms)"])
        rows.append([f"requests to find {number} again without status, each", f"{again}, of which {configs} configurations", "–"])
    for what, power in kept.find("scale", r"^(\w[\w ]+) grows with the number to the power of ([\d.-]+)$"):
        rows.append([f"growth of processor time with the number of objects: {what}", f"power {power}", "–"])
    for name, guests, requests in kept.find("peers", r"^(.+): (\d+) guests, ([\d.]+) requests a guest"):
        rows.append([f"over HTTPS: requests a guest, {guests} guests, {name}", requests, "–"])
    commands = "\n".join(f"- {kept.command(part)}" for part in ("queue", "makespan", "scale", "peers") if part in kept.parts)
    return f"""## Speed and size

Counts and ratios are the same in every run (those over HTTPS nearly so); times say how busy the machine was.

{commands}

The limit is what Proxmox takes at least, whoever asks (`phoenix plan --estimate`, [performance](performance.md#limits)); the
time against it is simulated, not of the machine.

""" + table(["work", "time / limit", "simulated", "the limit"], beside) + """
What others took was not measured in this run: it is of an earlier day, on the same simulator at commit fd82199, by kubemox
0.6.5 and by terraform with the provider bpg 0.111. `PEER=COMMAND cargo bench --bench peers` counts the requests of any program.

""" + table(["figure", "Phoenix", "others, earlier"], rows)


LIMITS = {
    "full": "clones × time of a full clone: a container is locked while it is cloned",
    "linked": "clones × time of a linked clone",
    "image": "guests × (create + start) / 4 tasks at once on a node",
}


def page(kept):
    commits = sorted({part["commit"] for part in kept.parts.values()})
    cores = os.cpu_count()
    built = "optimized" if "--profile soak" in kept.parts["tests"]["command"] else "without optimization"
    return f"""# Evidence

Made by `make evidence` (`tests/evidence/run.py`) from runs on {time.strftime("%Y-%m-%d", time.gmtime())}, at {" and ".join(commits)}, {built}, on {cores}
cores ({platform.machine()}). It is not edited by hand: `tests/evidence/promises.json` says which tests and protections hold which
promise, and the rest is what the commands printed. `tests/evidence/run.py --help` says how to run more or less.

{promises(kept)}
{searches(kept)}
{figures(kept)}"""


def main():
    chosen = options()
    WORK.mkdir(parents=True, exist_ok=True)
    known = parts(chosen)
    names = [name for name, _, _ in known]
    if unknown := set(chosen.only or []) - set(names):
        sys.exit(f"no parts {', '.join(sorted(unknown))}: there are {', '.join(names)}")
    if chosen.only is None:
        for path in WORK.glob("*.json"):
            path.unlink()
    for name, command, environment in known:
        if chosen.only is None or name in chosen.only:
            run(name, command, environment)
    PAGE.write_text(page(Kept()))


if __name__ == "__main__":
    main()
