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
    ("a guest without our stamp is a conflict", "src/plan/identity.rs",
     "            stamp => Err(self.conflict(vmid, guest, stamp)),",
     "            _ => Ok(()),"),
    ("the stamp names the vmid it was made for", "src/desired/stamp.rs",
     "            && self.vmid == other.vmid\n", ""),
    ("the stamp names the management cluster", "src/desired/stamp.rs",
     "self.cluster == other.cluster && self.same_object(other)", "self.same_object(other)"),
    ("a guest that is being created is left alone", "src/plan/identity.rs",
     'let being_created = guest.being_made();', "let being_created = false;"),
    ("guests are searched for our stamp before a vmid is allocated", "src/plan/identity.rs",
     "Some(found) => self.among_ours(&found.clone()),", "Some(_) => Ok(None),"),
    ("adoption only when the annotation asks for it", "src/plan/identity.rs",
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
     "let Some(stamp) = stamp.filter(ours) else {", "let Some(stamp) = stamp else {"),
    ("every volume is accounted for before a destroy", "src/plan/delete.rs",
     "        if let Some(next) = self.unaccounted(vmid, guest) {\n            return next;\n        }\n", ""),
    ("an adopted guest stays by default", "src/plan/delete.rs",
     "let policy = self.policy().unwrap_or(if adopted {", "let policy = self.policy().unwrap_or(if adopted && false {"),
    ("the cluster is the recorded one", "src/plan/delete.rs",
     "if !cluster.is_recorded() {", "if false {"),
    ("a retained volume that is registered is never allocated again", "src/plan/owners.rs",
     "            [entry] => return Ok(Some(entry.clone())),\n", "            [_] => return Ok(None),\n"),
    ("the protection of an owner is restored", "src/plan/owners.rs",
     'if !is_set(&owner.guest, "protection") &&', 'if false && !is_set(&owner.guest, "protection") &&'),
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
     "boot.as_deref() == Some(volid)\n", "boot.is_some() || !key.is_empty()\n"),
    ("a disk is found by its serial number", "src/plan/vm_disks.rs",
     '.find(|(_, p)| p.get("serial") == Some(&wanted.name))', ".nth(usize::MAX)"),
    ("a machine's devices are no wish of its clones", "src/plan/vm.rs",
     "if wanted.is_none() && !fresh {", "if wanted.is_none() {"),
    ("a disk never shrinks", "src/plan/sizes.rs", "if lowered {", "if false {"),
    ("what cannot be read may be the owner of a volume", "src/plan/owners.rs",
     "if let Some((_, failure)) = owners.unreadable.first() {\n            let failure = failure.clone();\n            return Err(self.not_readable",
     "if let Some((_, failure)) = owners.unreadable.get(usize::MAX) {\n            let failure = failure.clone();\n            return Err(self.not_readable"),
    ("a hidden container may be the owner of a volume", "src/plan/owners.rs",
     "match range.hidden.first() {", "match range.hidden.get(usize::MAX) {"),
    ("a volume of the other id mapping is not used", "src/plan/owners.rs",
     "if at.unprivileged.is_some_and(|wanted| wanted != was) {", "if false {"),
    ("a volume on another node is not used", "src/plan/owners.rs",
     "if owner.guest.node != at.node {", "if false {"),
    ("a recorded volume that is gone is not replaced", "src/plan/owners.rs",
     "self.not_lost(stage, owners, volume)?;", ""),
    ("an owner is taken over with its guests", "src/plan/identity.rs",
     "self.take_over_owners(vmid, guest)?;", ""),
    ("a volume that is detached stays accounted for", "src/plan/held.rs",
     "if attached.contains(&old.volid) || !self.holds(vmid, guest, &volid)? {", "if true {"),
    ("no empty volume is made beside nameless ones", "src/plan/held.rs",
     "if !status_lost || stamp", "if status_lost || stamp"),
    ("a volume in a snapshot counts", "src/shell/observe/volumes.rs",
     "        sections.push(Section {", "        drop(Section {"),
    ("a volume whose detachment is pending counts", "src/shell/observe/volumes.rs",
     "now.options.extend(row.value.map(|v| (row.key, v)));", "drop(row.value);"),
    ("an image is not resized under a running guest", "src/plan/volumes.rs",
     "if guest.running && is_image(mount.volid()) {", "if false {"),
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
TESTS = [["--lib"], *(["--test", name] for name in ("health", "ownership", "causes", "vm", "revisions", "retained", "volumes", "deletion_accounting", "standalone", "crash"))]


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
