"""The protections: by file, each with the test targets that are to notice it, and texts with what replaces them.

OUT in a replacement is true while the row is out; OUT[name] is the switch of another row. A target may narrow its tests
(`protected=writes`). Each text has to be in its file once and no two may overlap: `run.py --check`.
"""

FILES = {
    "src/plan/delete.rs": [
        ("a guest goes only once its cluster is proven", "lib=plan::protected::deletion",
         "        if let Some(next) = self.unproven(&what) {",
         "        if let Some(next) = self.unproven(&what).filter(|_| !OUT) {"),
        ("a guest whose volume another object has is not destroyed", "engine=existing::a_container_whose",
         "        if let Some(next) = self.lent(guest) {",
         "        if let Some(next) = self.lent(guest).filter(|_| !OUT) {"),
        ("a guest of the other sort is looked for as what it is", "engine=deletion::a_template_whose",
         "            Some(GuestRead::OtherType(at)) => Next::Look",
         '            Some(GuestRead::OtherType(_)) if OUT => self.release("the guest is gone"),\n'
         '            Some(GuestRead::OtherType(at)) => Next::Look'),
        ("an object without a vmid is not let go unasked", "lib=plan::protected",
         "        (value, None) => value.is_some(),",
         "        (value, None) => OUT || value.is_some(),"),
        ("absence is proven before the finalizer goes", "lib=plan::protected",
         "            Some(GuestRead::NotFound) => self.prove_absence(vmid),",
         '            Some(GuestRead::NotFound | GuestRead::Unreadable(_)) if OUT => self.release("the guest is gone"),\n'
         '            Some(GuestRead::NotFound) => self.prove_absence(vmid),'),
        ("every volume is accounted for before a destroy", "lib=plan::protected",
         "if let Some(next) = self.unaccounted(guest) {",
         "if let Some(next) = self.unaccounted(guest).filter(|_| !OUT) {"),
        ("an adopted guest stays by default", "lib=plan::protected",
         "let policy = self.policy().unwrap_or(if adopted {",
         "let policy = self.policy().unwrap_or(if adopted && !OUT {"),
        ("the cluster is the recorded one", "lib=plan::protected",
         "if !cluster.is_recorded() {",
         "if !OUT && !cluster.is_recorded() {"),
        ("before anything final it is asked which cluster answers", "lib=plan::protected",
         "if !cluster.read_now {",
         "if !OUT && !cluster.read_now {"),
        ("deleting waits for a lock of Proxmox's", "lib=plan::protected",
         'if let Some(lock) = &guest.lock {\n'
         '            return self.wait(Reason::GuestLocked',
         'if let Some(lock) = guest.lock.as_ref().filter(|_| !OUT) {\n'
         '            return self.wait(Reason::GuestLocked'),
        ("a guest is stopped before it is destroyed", "lib=plan::protected",
         'if guest.running {\n'
         '            return self.run(format!("stop {what}"), calls::stop(&guest.at));',
         'if guest.running && !OUT {\n'
         '            return self.run(format!("stop {what}"), calls::stop(&guest.at));'),
        ("absence needs to know of the quorum", "lib=plan::protected",
         "match self.observed.cluster.quorate {",
         "match self.observed.cluster.quorate.or(OUT.then_some(true)) {"),
        ("absence needs Proxmox to call the id free", "lib=plan::protected",
         'match &self.observed.id_check {\n'
         '            Some((checked, IdCheck::Free))',
         'match &self.observed.id_check {\n'
         '            _ if OUT => self.release("the guest is gone"),\n'
         '            Some((checked, IdCheck::Free))'),
        ("guests of earlier revisions are deleted too", "lib=plan::protected",
         "self.status.revisions.as_ref().and_then(|list| list.last())",
         "self.status.revisions.as_ref().filter(|_| !OUT).and_then(|list| list.last())"),
        ("a stamp is taken off under the digest of the read", "lib=plan::protected",
         'Effect::call(call.param("digest", &guest.digest))',
         'Effect::call(call.param_opt("digest", (!OUT).then_some(&guest.digest)))'),
        ("a guest that is being made is not destroyed", "lib=plan::protected",
         "if guest.being_made() && stamp",
         "if !OUT && guest.being_made() && stamp"),
        ("a protected guest is not destroyed", "lib=plan::protected",
         'if guest.options.get("protection").is_some_and(|v| v == "1") {\n'
         '            if self.unprotected() {',
         'if !OUT && guest.options.get("protection").is_some_and(|v| v == "1") {\n'
         '            if self.unprotected() {'),
        ("an owner that was opened is protected before its object goes", "lib=plan::protected",
         "if let Some(next) = self.open_owner() {",
         "if let Some(next) = self.open_owner().filter(|_| !OUT) {"),
        ("what the spec retains stays though status does not know", "engine=volumes::reclaim::a_volume_that_the_spec",
         "            if kept_ids.contains(volid) {",
         "            if !OUT && kept_ids.contains(volid) {"),
        ("a machine's disks that nobody named keep it", "lib=plan::protected",
         '|| disks.iter().any(|name| name == key || has("serial=", name))',
         '|| OUT || disks.iter().any(|name| name == key || has("serial=", name))'),
        ("only a volume recorded as Delete goes with its guest", "lib=plan::protected",
         'goes_with_guest(v, type_, adopted)',
         'OUT || goes_with_guest(v, type_, adopted)'),
        ("only a guest with our stamp is destroyed", "lib=plan::protected",
         "let Some(stamp) = stamp.clone().filter(ours) else {",
         "let Some(stamp) = stamp.clone().filter(|s| OUT || ours(s)) else {"),
        ("absence needs a quorum", "lib=plan::protected",
         'Some(false) => Err(self.wait(Reason::NoQuorum',
         'Some(false) if OUT => Ok(()),\n'
         '            Some(false) => Err(self.wait(Reason::NoQuorum'),
    ],
    "src/desired/managed.rs": [
        ("what the spec dropped is taken off the guest", "engine=dropped::",
         "remembered.filter(|name| !now.contains(*name))",
         "remembered.filter(|name| !OUT && !now.contains(*name))"),
    ],
    "src/plan/firewall.rs": [
        ("a rule that is to go stays until the new ones are in", "lib=plan::firewall",
         "if let Some(missing) = places.iter().rposition(Option::is_none) {",
         "let surplus = (0..have.len()).rev().find(|at| OUT && !places.contains(&Some(*at)));\n"
         "    if let Some(at) = surplus {\n"
         "        return Some(Edit::Remove(at));\n"
         "    }\n"
         "    if let Some(missing) = places.iter().rposition(Option::is_none) {"),
        ("a firewall that filters nothing is not Ready", "engine=firewall::a_firewall",
         "if open.is_empty() {",
         "if OUT || open.is_empty() {"),
    ],
    "src/engine/repeats.rs": [
        ("a step that changes nothing is not repeated at full speed", "engine=repeats::",
         ".filter(|times| *times >= OFTEN)?;",
         ".filter(|times| !OUT && *times >= OFTEN)?;"),
    ],
    "src/desired/stamp.rs": [
        ("the stamp names the vmid it was made for", "lib=plan::protected",
         '&& self.vmid == other.vmid\n',
         '&& (OUT || self.vmid == other.vmid)\n'),
        ("the stamp names the management cluster", "lib=plan::protected",
         "self.cluster == other.cluster && self.same_object(other)",
         "(OUT || self.cluster == other.cluster) && self.same_object(other)"),
        ("the stamp names the kind", "lib=plan::protected",
         '        self.kind == other.kind\n',
         '        (OUT || self.kind == other.kind)\n'),
        ("the last stamp of a description counts", "lib=plan::protected",
         '        let line = description\n'
         '            .lines()\n'
         '            .rev()\n'
         '            .find_map(',
         '        let mut lines: Vec<&str> = description.lines().collect();\n'
         '        if !OUT {\n'
         '            lines.reverse();\n'
         '        }\n'
         '        let line = lines\n'
         '            .iter()\n'
         '            .find_map('),
    ],
    "src/desired/refs.rs": [
        ("a hypervisor is for the namespaces that it lets in", "engine=protected::namespaces::a_hypervisor",
         '    if may {\n',
         '    if may || OUT {\n'),
    ],
    "src/observed/mod.rs": [
        ("linked clones of every form rest on their base", "lib=observed",
         'names("base-") || names("basevol-") || in_files',
         'names("base-") || !OUT && (names("basevol-") || in_files)'),
    ],
    "src/plan/identity.rs": [
        ("a new vmid has no volume anywhere", "engine=protected::search::a_vmid",
         "            Some((checked, IdCheck::Volumes(volids))) if *checked == vmid => {",
         '            Some((checked, IdCheck::Volumes(_))) if OUT && *checked == vmid => self.record(vmid, node, false),\n'
         '            Some((checked, IdCheck::Volumes(volids))) if *checked == vmid => {'),
        ("an old status finds its guest though the vmid is another's", "engine=adoption::an_old_status",
         "        if elsewhere {",
         "        if elsewhere && !OUT {"),
        ("of several guests with our stamp none is taken", "lib=plan::protected",
         "[_, _, ..] => {",
         "[_, _, ..] if !OUT => {"),
        ("guests are searched for our stamp before a vmid is allocated", "lib=plan::protected",
         "            Some(found) => Ok(found.clone()),",
         '            Some(_) if OUT => Ok(Stamped::default()),\n'
         '            Some(found) => Ok(found.clone()),'),
        ("vmids of other objects are left out", "lib=plan::protected",
         '|| observed.reserved.contains(*id)\n',
         '|| (!OUT && observed.reserved.contains(*id))\n'),
        ("a status from before the creation is completed", "lib=plan::protected",
         '        if !self.status.was_made() {\n',
         '        if !OUT && !self.status.was_made() {\n'),
        ("the object's stamp of an unknown management cluster stops a second guest", "engine=adoption::",
         "Some((vmid, cluster)) => Err(self.foreign(*vmid, cluster)),",
         'Some((vmid, cluster)) if !OUT => Err(self.foreign(*vmid, cluster)),\n'
         '                Some(_) => Ok(None),'),
    ],
    "src/plan/create.rs": [
        ("what a clone copied is cleared before its first start", "lib=plan::protected",
         '            fresh: true,\n',
         '            fresh: !OUT,\n'),
        ("before a guest is made it is asked which cluster answers", "lib=plan::protected",
         "if !self.observed.cluster.read_now {",
         "if !OUT && !self.observed.cluster.read_now {"),
        ("a creation is in status before it is sent", "lib=plan::protected",
         "let mut announce = vec![Announce::CreateSent];",
         "let mut announce = if OUT { vec![] } else { vec![Announce::CreateSent] };"),
        ("a template that is locked is not cloned", "lib=plan::protected",
         "let Some(lock) = &parent.lock else {",
         "let Some(lock) = parent.lock.as_ref().filter(|_| !OUT) else {"),
    ],
    "src/plan/lxc/volumes.rs": [
        ("a bind mount covers no volume", "lib=plan::protected",
         "if existing.is_some_and(|m| !m.volid().starts_with('/')) {",
         "if !OUT && existing.is_some_and(|m| !m.volid().starts_with('/')) {"),
        ("a volume is attached under the digest of the read", "lib=plan::protected",
         '.param(format!("mp{index}"), &properties)\n'
         '            .param("digest", &guest.digest);',
         '.param(format!("mp{index}"), &properties)\n'
         '            .param_opt("digest", (!OUT).then_some(&guest.digest));'),
        ("one volume that is refused keeps no other back", "engine=volumes::a_volume_that_is_refused",
         "                if self.lane_waits(stage, &lane(volume)) {",
         "                if !OUT && self.lane_waits(stage, &lane(volume)) {"),
        ("a volume of the guest's own in a retained one's place does not go", "lib=plan::protected",
         '                "Unaccounted"\n',
         '                if OUT { "Delete" } else { "Unaccounted" }\n'),
        ("only mounts that Phoenix made are detached", "lib=plan::protected",
         ".find(|(i, m)| recorded.contains(m.volid()) &&",
         ".find(|(i, m)| (OUT || recorded.contains(m.volid())) &&"),
        ("an image is not resized under a running guest", "engine=volumes::",
         "if guest.running && is_image(mount.volid()) {",
         "if !OUT && guest.running && is_image(mount.volid()) {"),
    ],
    "src/plan/change.rs": [
        ("a config write carries the digest of the read", "lib=plan::protected",
         'Effect::call(call.param("digest", &guest.digest))',
         'Effect::call(call.param_opt("digest", (!OUT).then_some(&guest.digest)))'),
        ("drift is only reported where that is the policy", "lib=plan::protected",
         "if self.desired.life.drift == DriftPolicy::Report {",
         "if self.desired.life.drift == DriftPolicy::Report && !OUT {"),
    ],
    "src/plan/options.rs": [
        ("a clone's hook script is cleared", "lib=plan::protected",
         "        option.cleared_of_clones && !wanted",
         '        !(OUT && option.key == "hookscript") && option.cleared_of_clones && !wanted'),
    ],
    "src/plan/lxc/network.rs": [
        ("an interface of a clone keeps only its hardware address", "lib=plan::protected",
         "Some(existing) if fresh => {",
         "Some(existing) if fresh && !OUT => {"),
    ],
    "src/plan/lxc/gpus.rs": [
        ("devices of every sort are cleared from a clone", "lib=plan::protected",
         "|path: &str| fresh || is_dropped(",
         "|path: &str| (fresh && !OUT) || is_dropped("),
        ("device nodes that Phoenix did not write stay", "lib=plan::protected",
         "dropped.has(&format!(\"device.{path}\"))",
         "OUT || dropped.has(&format!(\"device.{path}\"))"),
        ("devices that a user put there stay", "lib=plan::protected",
         "            _ => false,\n        }\n    }\n\n    /// The same before the node's cards",
         "            _ => OUT,\n        }\n    }\n\n    /// The same before the node's cards"),
    ],
    "src/plan/lxc/raw_lines.rs": [
        ("raw lines that Phoenix did not write stay", "lib=plan::protected",
         '        let mut remove: Vec<String> = written\n'
         '            .iter()\n'
         '            .filter(|l| !wanted.contains(l))\n'
         '            .map(|l| l.to_string())\n'
         '            .collect();',
         '        let mut remove: Vec<String> = written\n'
         '            .iter()\n'
         '            .filter(|l| !wanted.contains(l))\n'
         '            .map(|l| l.to_string())\n'
         '            .chain(present.iter().filter(|l| OUT && !wanted.contains(l)).cloned())\n'
         '            .collect();'),
    ],
    "src/plan/planner.rs": [
        ("writes wait for a lock of Proxmox's", "lib=plan::protected",
         '        match &guest.lock {\n',
         '        match guest.lock.as_ref().filter(|_| !OUT) {\n'),
    ],
    "src/plan/guest.rs": [
        ("a guest is stopped before anything else is done to it", "engine=waiting::stopping",
         "        if !self.facts.stopped || !guest.running {",
         "        if OUT || !self.facts.stopped || !guest.running {"),
    ],
    "src/plan/revisions.rs": [
        ("a revision that has to stay keeps no other", "engine=revisions::removal_goes_past",
         ".take(beyond)",
         ".take(if OUT { beyond.min(1) } else { beyond })"),
        ("a revision from which something was cloned stays", "lib=plan::protected",
         ".filter(|r| r.vmid().is_some() && !has_children(r))",
         ".filter(|r| OUT || !has_children(r))"),
        ("a revision on which linked clones rest stays", "lib=plan::protected",
         "if !found.linked.is_empty() {",
         "if !OUT && !found.linked.is_empty() {"),
        ("only a guest with our stamp is removed as an old revision", "lib=plan::protected",
         '        if !ours {\n',
         '        if !OUT && !ours {\n'),
        ("an old revision that holds volumes stays", "lib=plan::protected",
         "(!volumes.is_empty()).then(",
         "(!volumes.is_empty() && !OUT).then("),
        ("an old revision that is protected stays", "lib=plan::protected",
         'if guest.options.get("protection").is_some_and(',
         'if !OUT && guest.options.get("protection").is_some_and('),
        ("an old revision that runs stays", "lib=plan::protected",
         '    if guest.running {\n'
         '        return Some("it runs".into());',
         '    if guest.running && !OUT {\n'
         '        return Some("it runs".into());'),
    ],
    "src/plan/seal.rs": [
        ("a template is not sealed while it is locked", "lib=plan::protected",
         '        let stage = Stage::SnapshotReady;\n'
         '        self.unlocked(stage, guest)?;\n'
         '        if guest.running {',
         '        let stage = Stage::SnapshotReady;\n'
         '        if !OUT {\n'
         '            self.unlocked(stage, guest)?;\n'
         '        }\n'
         '        if guest.running && !OUT[a template is not sealed while it runs] {'),
        ("a template is not sealed while it runs", "lib=plan::protected"),
    ],
    "src/plan/vm/mod.rs": [
        ("a machine's devices are no wish of its clones", "lib=plan::vm::",
         "let all = wanted.is_some() || fresh;",
         "let all = wanted.is_some() || (!OUT && fresh);"),
    ],
    "src/plan/vm/disks.rs": [
        ("a disk is found by its serial number", "lib=plan::protected",
         '.find(|(_, p)| p.get("serial") == Some(&wanted.name))',
         '.find(|(_, p)| !OUT && p.get("serial") == Some(&wanted.name))'),
        ("a disk that somebody added is not counted as ours", "lib=plan::protected",
         "(None, None) if fresh =>",
         "(None, None) if fresh || OUT =>"),
        ("a disk that nobody recorded is not detached", "lib=plan::protected",
         '            known && !listed\n',
         '            (known || OUT) && !listed\n'),
        ("the boot disk is not detached", "lib=plan::protected",
         "if boot_disk(&guest.options).as_ref() == Some(place) {",
         "if !OUT && boot_disk(&guest.options).as_ref() == Some(place) {"),
        ("a disk never shrinks", "engine=volumes::a_disk_that_was_grown",
         "            if self.must_grow(&sized)? {",
         "            if self.must_grow(&sized)? || OUT && have > size.bytes() {"),
    ],
    "src/plan/scripts.rs": [
        ("an attempt of a script is started once", "lib=plan::scripts",
         '            } else {\n'
         '                Position::Due(attempt + 1)',
         '            } else {\n'
         '                Position::Due(if OUT { attempt } else { attempt + 1 })'),
        ("a script that ran is not run again", "lib=plan::scripts",
         '        Some(0) => Position::Done,\n',
         '        Some(0) if !OUT => Position::Done,\n'),
        ("a script that was cancelled stays so", "lib=plan::scripts",
         "if cancel == Some(&script.hash) => Position::Cancelled",
         "if !OUT && cancel == Some(&script.hash) => Position::Cancelled"),
        ("a script of every start is not repeated where the start is not known", "lib=plan::scripts",
         "record.this_start == Some(false)",
         "record.this_start.map_or(OUT, |this| !this)"),
    ],
    "src/plan/start.rs": [
        ("a restart that was announced and not sent is sent", "engine=restarts::a_restart_is_sent",
         "        if !self.owes_restart(guest) {\n            self.facts.restarted = true;",
         "        if OUT || !self.owes_restart(guest) {\n            self.facts.restarted = true;"),
        ("a restart that may be under way is not sent again", "engine=restarts::a_restart_that_may",
         "Err(match under_way {",
         "Err(match under_way && !OUT {"),
        ("what was found in an earlier start says nothing of this one", "engine=starts::after_every_start",
         "(None, Some(_)) => (false, false),",
         "(None, Some(_)) => (OUT, OUT),"),
        ("what status says of an earlier start says nothing of this one", "engine=starts::after_every_start",
         "None if self.status.started.is_some() => (false, false),",
         "None if self.status.started.is_some() => (OUT, OUT),"),
        ("what was found in this start outlives the operator", "engine=starts::a_new_operator",
         "let known = healthy.status == \"False\" &&",
         "let known = !OUT && healthy.status == \"False\" &&"),
    ],
    "src/engine/reconcile.rs": [
        ("an object that goes because its kind does keeps its guest", "engine=deletion::",
         "            Ok(true) => {\n                let left",
         "            Ok(true) if OUT => Ok(None),\n            Ok(true) => {\n                let left"),
        ("nothing is destroyed while the kind may be going", "engine=deletion::",
         "            Err(error) => {\n                let message = format!(\n                    \"the deletion waits",
         "            Err(_) if OUT => Ok(None),\n"
         "            Err(error) => {\n                let message = format!(\n                    \"the deletion waits"),
        ("nothing is said before the hypervisor was asked", "engine=starts::a_new_operator",
         "        if self.awaits_poll(&object) {",
         "        if !OUT && self.awaits_poll(&object) {"),
    ],
    "src/plan/health.rs": [
        ("a connection that is lost restarts nothing", "lib=plan::health",
         '                counts.unknown = (counts.unknown + 1).min(bad);\n',
         '                match OUT {\n'
         '                    true => counts.failures = (counts.failures + 1).min(bad),\n'
         '                    false => counts.unknown = (counts.unknown + 1).min(bad),\n'
         '                }\n'),
        ("a restart by a probe is in status before it is asked for", "engine=health::",
         "vec![Announce::HealthRestart(restarts)]",
         "if OUT { vec![] } else { vec![Announce::HealthRestart(restarts)] }"),
        ("a restart by a probe waits for its pause", "lib=plan::health",
         "(due > now && due - now <= LONGEST_PAUSE).then_some(due)",
         "(due > now && due - now <= LONGEST_PAUSE && !OUT).then_some(due)"),
    ],
    "src/desired/scripts/features.rs": [
        ("features that require each other are followed so far only", "engine=robustness::features_that",
         "        if self.done.len() + self.path.len() >= MAX_FEATURES {",
         "        if !OUT && self.done.len() + self.path.len() >= MAX_FEATURES {"),
    ],
    "src/engine/look.rs": [
        ("of many that choose an id each asks about another one", "engine=adoption::choosing_ids",
         "                && !self.engine.choose(&self.object, *vmid)",
         "                && !(OUT || OUT[two objects reserve two vmids])\n"
         "                && !self.engine.choose(&self.object, *vmid)"),
        ("edits of an owner come one after the other", "engine=protected::registry::objects",
         "            if self.owner_lock.is_none() {",
         "            if !OUT && self.owner_lock.is_none() {"),
    ],
    "src/engine/carry_out.rs": [
        ("one write that finds no quorum makes everybody wait", "engine=protected::absence::without_quorum_one",
         'let lost = matches!(&ended, Ended::Failed(failure) if failure.reason == Reason::NoQuorum);',
         'let lost = !OUT && matches!(&ended, Ended::Failed(failure) if failure.reason == Reason::NoQuorum);'),
        ("the vmid is written before the create call leaves", "engine=protected::writes::a_vmid",
         '        if !step.announce.is_empty() || self.object.is_ready() {\n'
         '            self.object = engine.write(&self.object, planned.clone()).await?;\n',
         '        if !OUT && (!step.announce.is_empty() || self.object.is_ready()) {\n'
         '            self.object = engine.write(&self.object, planned.clone()).await?;\n'
         '            if OUT[the finalizer comes before anything is recorded] && !self.object.finalizer {\n'
         '                self.object = engine.store.add_finalizer(&self.object).await?;\n'
         '            }\n'),
        ("the finalizer is set before the first write", "engine=protected::writes::nothing",
         '        if !self.object.finalizer {\n',
         '        if !(OUT || OUT[the finalizer comes before anything is recorded]) && !self.object.finalizer {\n'),
        ("the finalizer comes before anything is recorded", "engine=protected::writes::nothing"),
        ("two objects reserve two vmids", "engine=protected::search::two",
         '                *owner == object.key\n',
         '                OUT || *owner == object.key\n'),
        ("what was verified is void once something was written", "engine=protected::writes::after",
         '        lock(&engine.memory).verified.remove(&self.object.key);\n'
         '        if let Effect::RemoveFinalizer { leaves } = step.effect {',
         '        if !OUT {\n'
         '            lock(&engine.memory).verified.remove(&self.object.key);\n'
         '        }\n'
         '        if let Effect::RemoveFinalizer { leaves } = step.effect {'),
    ],
    "src/engine/task.rs": [
        ("a task that failed is told and waits", "engine=protected::writes::a_task",
         "            Ok(TaskState::Failed(text)) => {",
         '            Ok(TaskState::Failed(_)) if OUT => None,\n'
         '            Ok(TaskState::Failed(text)) => {'),
    ],
    "src/engine/execute.rs": [
        ("a write whose outcome is unknown is not sent again unseen", "engine=protected::writes::a_write",
         '    let outcome = match connection.client.call(call).await {\n'
         '        Ok(value) => match value',
         '    let mut sent = connection.client.call(call).await;\n'
         '    if OUT && sent.as_ref().is_err_and(|e| e.may_have_happened()) {\n'
         '        sent = connection.client.call(call).await;\n'
         '    }\n'
         '    let outcome = match sent {\n'
         '        Ok(value) => match value'),
    ],
    "src/engine/poll.rs": [
        ("the recorded cluster stays whoever answers", "engine=protected::absence::the_recorded",
         '    if same || proven {\n',
         '    if same || proven || OUT {\n'),
    ],
    "src/engine/observe/mod.rs": [
        ("a guest of a node that is off is waited for", "engine=protected::absence::a_guest",
         "nodes.iter().find(|n| !online.contains(*n))",
         "nodes.iter().find(|n| !OUT && !online.contains(*n))"),
        ("the cluster says on which node a guest is", "engine=protected::absence::a_container",
         "(Some(row), _) => vec![row.node.clone()],",
         '(Some(_), Some(node)) if OUT => vec![node.to_string()],\n'
         '        (Some(row), _) => vec![row.node.clone()],'),
        ("a storage that cannot be looked at is not taken for empty", "engine=protected::search::a_vmid",
         '        let content = recent.volumes.get(place, since, all).await?;',
         '        let content = recent.volumes.get(place, since, all).await;\n'
         '        let content = if OUT { content.unwrap_or_default() } else { content? };'),
    ],
    "src/plan/held.rs": [
        ("detached volumes of a container keep it", "lib=plan::held lib=plan::protected",
         'const CONTAINER: &[&str] = &["mp", "unused"];',
         'let container: &[&str] = if OUT { &["mp"] } else { &["mp", "unused"] };',
         "is_numbered(key, CONTAINER)",
         "is_numbered(key, container)"),
        ("detached disks of a machine keep it", "lib=plan::held lib=plan::protected",
         "is_numbered(key, MACHINE)",
         'is_numbered(key, MACHINE) && !(OUT && key.starts_with("unused"))'),
        ("a detached volume is still accounted for", "lib=plan::protected",
         "leaving || own && self.holds",
         "leaving || !OUT && own && self.holds"),
        ("what leaves at the next restart is still lent", "engine=existing::an_image_is_lent_until",
         "let leaving = old.is_existing() && leaves(guest, &volid);",
         "let leaving = !OUT && old.is_existing() && leaves(guest, &volid);"),
        ("no empty volume is made beside nameless ones", "engine=volumes::",
         "if !status_lost || stamp",
         "if OUT || !status_lost || stamp"),
    ],
    "src/desired/allow.rs": [
        ("what is root on the node is for other namespaces only where it is allowed", "engine=protected::namespaces::what",
         "    match asked.list.iter().find(|(_, reach)| !grants.covers(reach)) {",
         "    match asked.list.iter().find(|(_, reach)| !OUT && !grants.covers(reach)) {"),
        ("privileged containers are for other namespaces only where they are allowed", "engine=protected::namespaces::what",
         "        if guest.unprivileged == Some(false) {\n            self.ask(",
         "        if !OUT && guest.unprivileged == Some(false) {\n            self.ask("),
        ("raw lines are for other namespaces only where they are allowed", "engine=protected::namespaces::what",
         "        for (key, value) in super::lxc::raw_lines(guest) {",
         "        for (key, value) in super::lxc::raw_lines(guest).into_iter().filter(|_| !OUT) {"),
        ("host paths are for other namespaces only where they are allowed", "engine=protected::namespaces::what",
         "        for mount in spec.host_mounts.iter().flatten() {\n            let field",
         "        for mount in spec.host_mounts.iter().flatten().filter(|_| !OUT) {\n            let field"),
        ("an adopt annotation that cannot be followed makes nothing", "engine=adoption::an_annotation",
         "    adopt_can_be_followed(object)?;",
         "    if !OUT {\n"
         "        adopt_can_be_followed(object)?;\n"
         "    }"),
        ("ids of owner containers are nobody's", "engine=tenants::ids_of",
         "    owners_are_nobodys(object, hypervisor)?;",
         "    if !OUT {\n"
         "        owners_are_nobodys(object, hypervisor)?;\n"
         "    }"),
        ("a path that climbs is not below what was given", "lib=desired::allow",
         "    below && !climbs",
         "    below && (OUT || !climbs)"),
        ("a URL that climbs is not below what was given", "lib=desired::allow",
         "rest.is_some_and(|rest| !climbs(rest))",
         "rest.is_some_and(|rest| OUT || !climbs(rest))"),
        ("only templates of the hypervisor's namespace are given by name", "lib=desired::allow",
         "let template = template.filter(|t| t.key.namespace == namespace);",
         "let template = template.filter(|t| OUT || t.key.namespace == namespace);"),
    ],
    "src/plan/allow.rs": [
        ("a guest is adopted only with what was given", "engine=tenants::adopting",
         "        list.extend(self.counted(guest));\n",
         "        list.extend(self.counted(guest).into_iter().filter(|_| !OUT));\n"),
        ("volumes of others are not adopted", "engine=tenants::adopting",
         "        list.extend(volumes_of_others(guest));",
         "        list.extend(volumes_of_others(guest).into_iter().filter(|_| !OUT));"),
        ("what a guest carries is compared before each step", "engine=tenants::",
         "carried(guest).into_iter().filter(|c| !self.takes_away(c, guest));",
         "carried(guest).into_iter().filter(|c| !OUT && !self.takes_away(c, guest));"),
        ("what a template gives has only what was cloned from it", "engine=tenants::a_template_of_allow",
         "    let Some(stamp) = guest.stamp() else { return false };\n",
         "    let Some(stamp) = guest.stamp() else { return false };\n"
         "    if OUT && grants.template {\n"
         "        return true;\n"
         "    }\n"),
        ("a clone carries only what was given", "engine=tenants::a_clone",
         "        self.may_be_cloned(template, &parent)?;",
         "        if !OUT {\n"
         "            self.may_be_cloned(template, &parent)?;\n"
         "        }"),
        ("only the template's own guest is cloned", "engine=tenants::a_guest_that_is_not",
         "        if !is_its {",
         "        if !is_its && !OUT {"),
    ],
    "src/status.rs": [
        ("after an upgrade drift is not taken for a changed spec", "engine=protected::writes::after_an_upgrade",
         "if version(old) != version(hash) &&",
         "if !OUT && version(old) != version(hash) &&"),
    ],
    "src/plan/lxc/reclaim.rs": [
        ("a kept volume is attached to one guest only", "engine=volumes::reclaim::a_retained_volume_is_in_one",
         "        let Some((vmid, place)) = holder else { return Ok(()) };",
         "        let Some((vmid, place)) = holder.filter(|_| !OUT) else { return Ok(()) };"),
        ("what is kept under a name is not covered by an empty volume", "engine=volumes::reclaim::retained_data",
         "        if self.desired.volume_owner().is_none() {\n"
         "            return Ok(None);",
         "        if OUT || self.desired.volume_owner().is_none() {\n"
         "            return Ok(None);"),
        ("a volume of the guest's own is not replaced by a retained one", "engine=volumes::reclaim::a_detached",
         "        owned_by(&volid, vmid).then_some(volid)",
         "        (!OUT && owned_by(&volid, vmid)).then_some(volid)"),
        ("a volume that was announced is recorded before its place is left", "engine=volumes::reclaim::a_volume_that_was_announced_is_not",
         "            if still_wanted || entry",
         "            if OUT || still_wanted || entry"),
    ],
    "src/plan/stop.rs": [
        ("a stranger's guest is not stopped for a spec that cannot be resolved", "engine=waiting::a_strangers",
         "    if !ours || guest.being_made()",
         "    if !ours && !OUT || guest.being_made()"),
    ],
    "src/desired/images.rs": [
        ("the name of an image holds its checksum", "lib=desired::images",
         'format!("{stem}-{sha256}{end}")',
         'if OUT { format!("{stem}{end}") } else { format!("{stem}-{sha256}{end}") }'),
    ],
    "src/plan/images.rs": [
        ("Proxmox compares what it downloads", "engine=images::",
         '                    .param("checksum", sha256)\n'
         '                    .param("checksum-algorithm", "sha256");',
         '                    .param_opt("checksum", (!OUT).then_some(sha256))\n'
         '                    .param_opt("checksum-algorithm", (!OUT).then_some("sha256"));'),
        ("a file under an appliance's name is compared once", "engine=images::",
         "if image.present && image.compared {",
         "if image.present && (OUT || image.compared) {"),
    ],
    "src/engine/turns.rs": [
        ("places for tasks go to namespaces in turn", "lib=engine::turns",
         "                (holds, self.served.last(namespace), Reverse(waiter.behind))",
         "                if OUT { (0, 0, Reverse(waiter.behind)) } else { (holds, self.served.last(namespace), Reverse(waiter.behind)) }"),
        ("clones of a source go to namespaces in turn", "lib=engine::turns",
         "let rank = (*nth, self.served.last(&key.namespace), Reverse(*behind), came);",
         "let rank = if OUT { (0, 0, Reverse(*behind), came) } else { (*nth, self.served.last(&key.namespace), Reverse(*behind), came) };"),
        ("of those that ask for a clone at once one begins", "lib=engine::turns",
         "let begins = self.clones(key) || self.next().as_ref() == Some(key);",
         "let begins = OUT || self.clones(key) || self.next().as_ref() == Some(key);"),
    ],
    "src/engine/defect.rs": [
        ("a panic costs only the work in which it happens", "engine=robustness::a_panic",
         "    AssertUnwindSafe(work).catch_unwind().await.map_err(words)",
         "    if OUT {\n"
         "        return Ok(work.await);\n"
         "    }\n"
         "    AssertUnwindSafe(work).catch_unwind().await.map_err(words)"),
    ],
    "src/plan/lxc/owners.rs": [
        ("a retained volume that is registered is never allocated again", "lib=plan::protected",
         "            [entry] => Ok(Some(entry.clone())),",
         '            [_] if OUT => Ok(None),\n'
         '            [entry] => Ok(Some(entry.clone())),'),
        ("the protection of an owner is restored", "lib=plan::protected",
         "            if is_open(owner) {",
         "            if !OUT && is_open(owner) {"),
        ("a volume is allocated under the digest of its owner's read", "lib=plan::protected",
         '.param(format!("mp{index}"), value)\n'
         '            .param("digest", &owner.digest);',
         '.param(format!("mp{index}"), value)\n'
         '            .param_opt("digest", (!OUT).then_some(&owner.digest));'),
        ("what cannot be read may be the owner of a volume", "engine=retained::",
         '        if let Some((_, failure)) = owners.unreadable.first() {\n'
         '            let failure = failure.clone();\n'
         '            return Err(self.not_readable',
         '        if let Some((_, failure)) = owners.unreadable.first().filter(|_| !OUT) {\n'
         '            let failure = failure.clone();\n'
         '            return Err(self.not_readable'),
        ("a hidden container may be the owner of a volume", "engine=retained::",
         "match range.hidden.first() {",
         "match range.hidden.first().filter(|_| !OUT) {"),
        ("a volume of the other id mapping is not used", "engine=retained::",
         "if at.unprivileged.is_some_and(|wanted| wanted != was) {",
         "if !OUT && at.unprivileged.is_some_and(|wanted| wanted != was) {"),
        ("a volume on another node is not used", "engine=retained::",
         "        if owner.at.node != at.node {",
         "        if !OUT && owner.at.node != at.node {"),
        ("a recorded volume that is gone is not replaced", "engine=volumes::a_retained_volume_that_lost",
         "                self.not_lost(at.stage, &owners, volume)?;",
         '                if !OUT {\n'
         '                    self.not_lost(at.stage, &owners, volume)?;\n'
         '                }'),
        ("a volume is allocated on an owner of its id mapping", "engine=protected::registry::a_new",
         '&& Some(is_unprivileged(o)) == at.unprivileged;\n',
         '&& (OUT || Some(is_unprivileged(o)) == at.unprivileged);\n'),
        ("of a key registered twice none is taken", "lib=plan::protected",
         '            several => {\n',
         '            [entry, ..] if OUT => Ok(Some(entry.clone())),\n'
         '            several => {\n'),
    ],
    "src/plan/sizes.rs": [
        ("a root filesystem never shrinks", "lib=plan::protected",
         '            return Ok(size.compare().is_lt());\n'
         '        }\n',
         '            return Ok(size.compare().is_lt());\n'
         '        }\n'
         '        if OUT {\n'
         '            return Ok(true);\n'
         '        }\n'),
    ],
    "src/plan/retry.rs": [
        ("what does not exist yet is waited for", "engine=awaited::",
         "if !reason.may_be_created() || conditions",
         "if OUT || !reason.may_be_created() || conditions"),
        ("a failed step waits for its time", "lib=plan::protected",
         "        Next::Run(step) => held(step, status, now).unwrap_or(next),",
         "        Next::Run(step) if !OUT => held(step, status, now).unwrap_or(next),"),
        ("stopping and deleting obey no pause of other work", "lib=plan::retry engine=waiting::",
         "            None if [STOP, DELETE].contains(&name) => return None,",
         "            None if !OUT && [STOP, DELETE].contains(&name) => return None,"),
        ("a time that a wrong clock wrote holds nothing back", "lib=plan::retry",
         "    (1..=MAX_PAUSE).contains(&left).then_some(left)",
         "    (1..=if OUT { u64::MAX } else { MAX_PAUSE }).contains(&left).then_some(left)"),
        ("a changed spec ends the pauses", "lib=plan::retry",
         "    if status.observed_generation != Some(generation) {",
         "    if !OUT && status.observed_generation != Some(generation) {"),
    ],
    "src/engine/observe/volumes.rs": [
        ("an owner container is known by its stamp", "engine=protected::registry::a_container",
         "Ok(guest) if guest.stamp().is_some_and(|s| s.kind == OWNER_KIND) => {",
         'Ok(guest) if OUT || guest.stamp().is_some_and(|s| s.kind == OWNER_KIND && !OUT[an owner container is found again]) => {'),
        ("an owner container is found again", "engine=protected::registry::a_container"),
        ("a volume in a snapshot counts", "engine=deletion_accounting::",
         "        sections.push(Section {",
         '        if OUT {\n'
         '            continue;\n'
         '        }\n'
         '        sections.push(Section {'),
        ("a volume whose detachment is pending counts", "engine=deletion_accounting::",
         "now.options.extend(row.value.map(|v| (row.key, v)));",
         "now.options.extend(row.value.filter(|_| !OUT).map(|v| (row.key, v)));"),
    ],
    "src/plan/lost.rs": [
        ("with status lost the guest is searched for before the object goes", "engine=deletion::",
         "        let Some(found) = self.observed.stamped.clone() else {\n            return Next::Look(Query::Stamped {\n                among: None,",
         '        if OUT && self.observed.stamped.is_none() {\n'
         '            return self.release("nothing on Proxmox belongs to it");\n'
         '        }\n'
         '        let Some(found) = self.observed.stamped.clone() else {\n            return Next::Look(Query::Stamped {\n                among: None,'),
    ],
    "src/crd/status.rs": [
        ("of the recorded cluster the nodes count too", "lib=plan::protected",
         '        nodes && self.name == now.name\n',
         '        (OUT || nodes) && self.name == now.name\n'),
    ],
    "src/plan/ownership.rs": [
        ("a guest without our stamp is a conflict", "lib=plan::protected",
         "            stamp => Err(self.conflict(guest, stamp)),",
         '            _ if OUT => Ok(()),\n'
         '            stamp => Err(self.conflict(guest, stamp)),'),
        ("a guest that is being created is left alone", "lib=plan::protected",
         "if guest.being_made() && stamp",
         "if !OUT && guest.being_made() && stamp"),
        ("adoption only when the annotation asks for it", "lib=plan::protected",
         "let vmid = self.desired.identity.adopt.as_ref()?.trim().parse().ok()?;",
         'let asked = self.desired.identity.adopt.as_ref().and_then(|a| a.trim().parse().ok());\n'
         '        let vmid = asked.or(self.desired.identity.vmid.filter(|_| OUT))?;'),
        ("taking a guest over carries the digest of the read", "lib=plan::protected",
         '.param("description", stamp.describe(&words))\n'
         '            .param("digest", &guest.digest);',
         '.param("description", stamp.describe(&words))\n'
         '            .param_opt("digest", (!OUT).then_some(&guest.digest));'),
        ("a vmid is given up only where another's stamp shows why", "lib=plan::protected",
         "&& refused && stamp.is_some()",
         "&& refused && (OUT || stamp.is_some())"),
        ("an adopt annotation is honoured once", "engine=adoption::",
         "(self.status.vmid().is_none() || cut_off)",
         "(self.status.vmid().is_none() || cut_off || OUT)"),
        ("what another object has is not taken", "engine=adoption::",
         "let whose = match self.observed.held.of(vmid) {",
         "let whose = match self.observed.held.of(vmid).filter(|_| !OUT) {"),
        ("a guest with another object's stamp is not adopted", "engine=adoption::",
         "let stamped = stamp.filter(|s| s.vmid == vmid || s.kind == OWNER_KIND);",
         "let stamped = stamp.filter(|s| !OUT && (s.vmid == vmid || s.kind == OWNER_KIND));"),
        ("a guest that holds another object's volumes is not adopted", "engine=adoption::",
         "        if borrowed.is_empty() {",
         "        if OUT || borrowed.is_empty() {"),
        ("a restamp is carried out once", "engine=adoption::",
         "asked && !spent && known",
         "asked && (OUT || !spent) && (OUT[a restamp takes only a guest with the tag] || known)"),
        ("a restamp takes only a guest with the tag", "engine=adoption::"),
        ("an owner is taken over before its guests", "lib=plan::protected",
         "                self.take_over_owners(guest)?;",
         '                if !OUT {\n'
         '                    self.take_over_owners(guest)?;\n'
         '                }'),
    ],
    "src/engine/observe/ownership.rs": [
        ("guests that are being made are waited for in the search for our stamp", "engine=protected::search::a_guest",
         '            found.being_made.push(at.vmid);\n',
         '            if !OUT {\n'
         '                found.being_made.push(at.vmid);\n'
         '            }\n'),
    ],
    "src/plan/conflicts.rs": [
        ("who comes later waits for an address", "engine=conflicts::",
         "let first = self.input.conflicts.iter().find(|conflict| conflict.waits)?;",
         "let first = self.input.conflicts.iter().find(|conflict| conflict.waits && !OUT)?;"),
    ],
    "src/plan/recreate.rs": [
        ("a guest is made anew only as the condition said", "engine=recreate::what_was",
         "told && desired.life.form == Form::Guest && asked.is_some() && asked == token(desired, status).as_ref()",
         "told && desired.life.form == Form::Guest && asked.is_some() && (OUT || asked == token(desired, status).as_ref())"),
    ],
    "src/plan/lxc/existing.rs": [
        ("an image is attached to one container only", "engine=existing::an_image_is",
         'place == "rootfs" || is_image(volid));',
         'place == "rootfs" || is_image(volid) && !OUT);'),
        ("an entry does not turn into a new volume", "engine=existing::an_entry_does_not",
         "wanted.iter().filter(|v| v.existing.is_none()) {",
         "wanted.iter().filter(|v| v.existing.is_none() && !OUT) {"),
        ("an existing volume is there", "engine=existing::what_is_no_volume",
         "        (false, _) => {",
         "        (false, _) if !OUT => {"),
        ("a lent image is not attached by its own guest", "engine=existing::an_image_that_was_lent",
         "        if !is_image(volid) {\n            return Ok(());",
         "        if OUT || !is_image(volid) {\n            return Ok(());"),
    ],
    "src/desired/conflicts.rs": [
        ("an existing image is given to one object only", "engine=existing::of_two_objects",
         "            if named && rank(other, volid) < rank(object, volid) {",
         "            if !OUT && named && rank(other, volid) < rank(object, volid) {"),
    ],
    "src/plan/lxc/protected.rs": [
        ("a protected container gets its volumes", "engine=containers::a_protected_container",
         "Err(Next::Run(step)) if is_protected && changes_mounts(&step.effect, guest) => {",
         "Err(Next::Run(step)) if !OUT && is_protected && changes_mounts(&step.effect, guest) => {"),
    ],
}
