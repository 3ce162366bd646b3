#!/usr/bin/env python3
"""Takes the protections behind the promises out, one at a time, and shows which tests notice.

Run it on a clean checkout (it edits sources and puts them back): tests/protections/run.py [--first] [NAME ...]
With --first the tests end with the first file of them that notices, which is quicker.
The tests in process are run first; where they stay green the protection is reported as UNNOTICED and the exit code
is 1. Its output is kept in docs/testing.md.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# name, file, text, what replaces it
PROTECTIONS = [
    ("the vmid is written before the create call leaves", "src/shell/engine.rs",
     "        let object = self.write(&object, status).await?;\n        self.cut(&object.key, Point::BeforeEffect",
     "        let _ = status;\n        self.cut(&object.key, Point::BeforeEffect"),
    ("a guest without our stamp is a conflict", "src/plan/ownership.rs",
     "            stamp => Err(self.conflict(vmid, guest, stamp)),",
     "            _ => Ok(()),"),
    ("the stamp names the vmid it was made for", "src/desired/stamp.rs",
     "            && self.vmid == other.vmid\n", ""),
    ("the stamp names the management cluster", "src/desired/stamp.rs",
     "self.cluster == other.cluster && self.same_object(other)", "self.same_object(other)"),
    ("a guest that is being created is left alone", "src/plan/ownership.rs",
     "if guest.being_made() && stamp", "if false && stamp"),
    ("guests are searched for our stamp before a vmid is allocated", "src/plan/identity.rs",
     "            ours => Ok(ours.first().copied()),", "            _ => Ok(None),"),
    ("an adopt annotation is honoured once", "src/plan/ownership.rs",
     "(self.status.vmid.is_none() || cut_off)", "(cut_off || true)"),
    ("what another object has is not taken", "src/plan/ownership.rs",
     "let whose = match self.observed.held.get(&vmid) {", "let whose = match None::<&String> {"),
    ("a guest with another object's stamp is not adopted", "src/plan/ownership.rs",
     "let stamped = stamp.filter(|s| s.vmid == vmid || s.kind == OWNER_KIND);", "let stamped = stamp.filter(|_| false);"),
    ("a guest that holds another object's volumes is not adopted", "src/plan/ownership.rs",
     "        if borrowed.is_empty() {", "        if borrowed.len() < 99 {"),
    ("a restamp is carried out once", "src/plan/ownership.rs",
     "asked && !spent && known", "asked && known"),
    ("a restamp takes only a guest with the tag", "src/plan/ownership.rs",
     "asked && !spent && known", "asked && !spent"),
    ("the object's stamp of an unknown management cluster stops a second guest", "src/plan/identity.rs",
     "Some((vmid, cluster)) => Err(self.foreign(*vmid, cluster)),", "Some(_) => Ok(None),"),
    ("with status lost the guest is searched for before the object goes", "src/plan/delete.rs",
     "return Next::Look(Query::Stamped { among: None });", 'return self.release("nothing on Proxmox belongs to it");'),
    ("adoption only when the annotation asks for it", "src/plan/ownership.rs",
     "let vmid = self.desired.adopt.as_ref()?.parse().ok()?;",
     "let vmid = self.desired.adopt.as_ref().and_then(|a| a.parse().ok()).or(self.desired.vmid)?;"),
    ("a new vmid has no volume anywhere", "src/plan/identity.rs",
     "Some((checked, IdCheck::Volumes(volids))) if *checked == vmid => {",
     "Some((checked, IdCheck::Volumes(_))) if *checked == vmid => self.record(vmid, node, false),\n"
     "            Some((_, IdCheck::Volumes(volids))) => {"),
    ("what a clone copied is cleared before its first start", "src/plan/create.rs",
     "            fresh: true,\n", "            fresh: false,\n"),
    ("absence is proven before the finalizer goes", "src/plan/delete.rs",
     "Some(GuestRead::NotFound) => self.prove_absence(vmid),",
     'Some(GuestRead::NotFound | GuestRead::Unreadable(_)) => self.release("the guest is gone"),'),
    ("only a guest with our stamp is destroyed", "src/plan/delete.rs",
     "stamp.clone().filter(ours) else {", "stamp.clone() else {"),
    ("every volume is accounted for before a destroy", "src/plan/delete.rs",
     "        if let Some(next) = self.unaccounted(vmid, guest) {\n            return next;\n        }\n", ""),
    ("an adopted guest stays by default", "src/plan/delete.rs",
     "let policy = self.policy().unwrap_or(if adopted {", "let policy = self.policy().unwrap_or(if adopted && false {"),
    ("the cluster is the recorded one", "src/plan/delete.rs",
     "if !cluster.is_recorded() {", "if false {"),
    ("a retained volume that is registered is never allocated again", "src/plan/volumes.rs",
     "            [] => Ok(None),\n            [(owner, mount)] => {",
     "            [] | [_] => Ok(None),\n            [(owner, mount), _, _] => {"),
    ("the protection of an owner is restored", "src/plan/volumes.rs",
     'if owner.guest.options.get("protection").is_none_or(|v| v != "1") {', "if false {"),
    ("a config write carries the digest of the read", "src/plan/config.rs",
     'Effect::Call(call.param("digest", &guest.digest))', "Effect::Call(call)"),
    ("the finalizer is set before the first write", "src/shell/engine.rs",
     "self.store.add_finalizer(&object).await?", "object"),
    ("an attempt of a script is started once", "src/plan/scripts.rs",
     "            } else {\n                Position::Due(attempt + 1)", "            } else {\n                Position::Due(attempt)"),
    ("before anything final it is asked which cluster answers", "src/plan/delete.rs",
     "if !cluster.read_now {", "if false {"),
    ("a script that ran is not run again", "src/plan/scripts.rs",
     "        Some(0) => Position::Done,\n", ""),
    ("a machine's disks that nobody named keep it", "src/plan/delete.rs",
     "boot.as_ref() != Some(place) && !listed.iter().any(|d| named(&d.name))", "boot.is_none() && !named(place)"),
    ("a disk is found by its serial number", "src/plan/vm_disks.rs",
     '.find(|(_, p)| p.get("serial") == Some(&wanted.name))', ".nth(usize::MAX)"),
    ("a machine's devices are no wish of its clones", "src/plan/vm.rs",
     "if wanted.is_none() && !fresh {", "if wanted.is_none() {"),
    ("a disk never shrinks", "src/plan/vm_disks.rs", "if size > bytes {", "if false {"),
    ("a revision from which something was cloned stays", "src/plan/revisions.rs",
     ".filter(|r| !has_children(r))", ".filter(|r| !r.revision.is_empty() || has_children(r))"),
    ("a revision on which linked clones rest stays", "src/plan/revisions.rs",
     "if !found.linked.is_empty() {", "if false {"),
    ("only a guest with our stamp is removed as an old revision", "src/plan/revisions.rs",
     "if !ours {", "if false {"),
    ("a restart by a probe waits for its pause", "src/plan/health.rs",
     "(due > now).then_some(due)", "(due > now + 999).then_some(due)"),
    ("a connection that is lost restarts nothing", "src/plan/health.rs",
     "counts.unknown = (counts.unknown + 1).min(bad);", "counts.failures = (counts.failures + 1).min(bad);"),
    ("a restart by a probe is in status before it is asked for", "src/plan/health.rs",
     "vec![Announce::HealthRestart(restarts)]", "vec![]"),
    ("a script that was cancelled stays so", "src/plan/scripts.rs",
     "if cancel == Some(&script.hash) => Position::Cancelled", "if cancel == Some(\"\") => Position::Cancelled"),
    ("a script of every start is not repeated where the start is not known", "src/plan/scripts.rs",
     "record.this_start == Some(false)", "record.this_start != Some(true)"),
]


# In this order: the quick ones first.
TESTS = [["--lib"], *(["--test", name] for name in ("health", "ownership", "causes", "vm", "revisions", "standalone", "crash"))]


def sh(args):
    return subprocess.run(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def failing(output):
    return re.findall(r"^test (\S+) \.\.\. FAILED", output, re.M)


def main():
    if sh(["git", "status", "--porcelain", "src"]).stdout.strip():
        sys.exit("src/ has changes that are not committed")
    unnoticed = 0
    names = [a for a in sys.argv[1:] if a != "--first"]
    first = "--first" in sys.argv
    for name, file, old, new in PROTECTIONS:
        if names and not any(a in name for a in names):
            continue
        path = ROOT / file
        text = path.read_text()
        if text.count(old) != 1:
            sys.exit(f"{name}: the text in {file} was not found once: mend this script")
        path.write_text(text.replace(old, new))
        try:
            run = sh(["cargo", "test", "--no-run", *sum(TESTS, [])])
            tests = []
            for target in TESTS if run.returncode == 0 else []:
                # Without a protection tests may wait for what never comes; what failed until then is enough.
                tests += failing(sh(["timeout", "240", "cargo", "test", *target]).stdout)
                if tests and first:
                    break
        finally:
            path.write_text(text)
        if run.returncode != 0:
            verdict = "DOES NOT COMPILE\n" + run.stdout[-2000:]
            unnoticed += 1
        elif tests:
            verdict = f"{len(tests)} tests: " + ", ".join(tests[:4])
        else:
            verdict = "UNNOTICED"
            unnoticed += 1
        print(f"| {name} | {verdict} |", flush=True)
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
