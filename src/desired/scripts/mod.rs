//! Features, model server, application and tests of a guest, as the scripts that are run in it.
//!
//! **What runs.** [`Script::body`] is always a short program of Phoenix's own for `/bin/sh`. The user's scripts are
//! files beside it, started by the interpreter that their `#!` line names, so nothing of theirs is ever quoted into a
//! shell text, and a `noexec` mount does no harm.
//!
//! **The hash** ([`Script::hash`]) says whether a script was run already, in this guest or in the one it was cloned
//! from: the first 16 hexadecimal digits of SHA-256 over environment (with the values of secrets), files
//! (path, mode, content), working directory and user. Left out on purpose:
//! * Phoenix's own body: a new version of Phoenix must not run every script of a fleet again;
//! * what differs from guest to guest: the vmid and `PHOENIX_FEATURES`. A clone then has the hash of its template;
//! * arguments, which are the vmid or nothing;
//! * the deadline, which does not change what a script does.
//!
//! A test's hash has the object's kind, namespace and name in it besides: a clone must not show the result that its
//! template had; and the value of the annotation `runTests` where there is one: a new value runs them again.

mod application;
mod clean;
mod features;
mod llamacpp;
mod ollama;
mod probes;
pub mod proof;
mod server;
#[cfg(test)]
mod tests;
mod vllm;
pub(crate) mod vllm_flags;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::crd::{EnvVar, Health, KeyRef, PhoenixHypervisor, Probe, RerunPolicy};
use crate::pve::GuestType;
use crate::reason::Reason;

use super::{Blocked, GuestObject, GuestSpec, Objects, RunAs, Script, ScriptFile, ScriptRole, refs};

pub use probes::probe_command;
pub(crate) use server::ModelServer;

/// Folder in the guest for files that only one run of a script needs.
const RUN: &str = "/run/phoenix";

/// The scripts of an object in the order they run: features (each after those it requires), the model server, the
/// application, the tests, and what cleans a machine that becomes a template.
///
/// # Errors
/// Unknown features, cycles, bad parameters, missing ConfigMaps and Secrets.
pub fn scripts(
    object: &GuestObject,
    hypervisor: &PhoenixHypervisor,
    objects: &dyn Objects,
) -> Result<Vec<Script>, Blocked> {
    let Some(guest) = object.shared() else {
        return Ok(Vec::new());
    };
    let wanted = features::resolve(object, hypervisor, objects)?;
    let mut scripts = features::scripts(object, &wanted, objects)?;
    scripts.extend(proof::script(object, hypervisor));
    if let Some(server) = ModelServer::of(object) {
        scripts.push(server.script(object, &wanted, &scripts, objects)?);
    }
    let application = guest.application.as_ref();
    if let Some(application) = application {
        scripts.push(application::script(object, application, objects)?);
    }
    scripts.extend(application::tests(object, application, objects)?);
    if matches!(object.spec, GuestSpec::Template(_)) {
        if object.guest_type() == GuestType::Qemu {
            scripts.push(clean::script());
        }
        scripts.iter_mut().for_each(|script| script.keep_output = false);
    }
    Ok(scripts)
}

/// The probes: the object's own; where it has no readiness probe, its model server's, else that of the last feature with one.
pub fn health(object: &GuestObject, hypervisor: &PhoenixHypervisor, objects: &dyn Objects) -> Health {
    if matches!(object.spec, GuestSpec::Template(_)) {
        return Health::default();
    }
    let mut health = object.health().cloned().unwrap_or_default();
    if health.readiness.is_none() {
        health.readiness = implied(object, hypervisor, objects);
    }
    health
}

fn implied(object: &GuestObject, hypervisor: &PhoenixHypervisor, objects: &dyn Objects) -> Option<Probe> {
    if let Some(server) = ModelServer::of(object) {
        return Some(server.probe());
    }
    // A feature that cannot be resolved is reported by `scripts`.
    let wanted = features::resolve(object, hypervisor, objects).ok()?;
    wanted.iter().rev().find_map(|w| w.feature.spec.health.clone())
}

fn invalid(message: String) -> Blocked {
    Blocked::stalled(Reason::InvalidSpec, message)
}

/// What a script is given and what its hash is made of.
#[derive(Default)]
struct Given {
    environment: BTreeMap<String, String>,
    files: Vec<ScriptFile>,
    workdir: Option<String>,
    run_as: Option<RunAs>,
    /// The object, where a clone must run the script again.
    owner: Option<String>,
}

impl Given {
    /// See the module's words on the hash.
    fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        // Every part carries its length and every list its count: no two inputs give one stream of bytes.
        let mut add = |part: &str| {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        };
        add("phoenix script 1");
        add(&self.environment.len().to_string());
        for (name, value) in &self.environment {
            add(name);
            add(value);
        }
        add(&self.files.len().to_string());
        for file in &self.files {
            add(&file.path);
            add(&file.mode);
            add(&file.content);
        }
        add(self.workdir.as_deref().unwrap_or_default());
        if let Some(owner) = &self.owner {
            add(owner);
        }
        if let Some(RunAs { user, .. }) = &self.run_as {
            add("user");
            add(user);
        }
        hasher.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
    }

    /// The script that is given this; its hash is taken now, its arguments are not part of it.
    fn script(self, role: ScriptRole, id: String, name: &str, body: String, deadline_seconds: i64) -> Script {
        Script {
            id,
            name: name.to_string(),
            role,
            hash: self.hash(),
            body,
            args: Vec::new(),
            environment: self.environment,
            files: self.files,
            workdir: self.workdir,
            run_as: self.run_as,
            deadline_seconds,
            rerun: RerunPolicy::OnChange,
            keep_output: true,
        }
    }
}

/// Words that start a script: its `#!` line as the kernel reads it (a program, then the rest as one argument). Without
/// one, python3 for names in `.py` and sh for all others.
fn interpreter(script: &str, name: &str) -> Vec<String> {
    let line = script.strip_prefix("#!").and_then(|rest| rest.lines().next());
    let line = line.unwrap_or_default().trim();
    let (program, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let words: &[&str] = match (program, argument.trim()) {
        ("", _) if name.ends_with(".py") => &["/usr/bin/env", "python3"],
        ("", _) => &["/bin/sh"],
        (program, "") => &[program],
        (program, argument) => &[program, argument],
    };
    words.iter().map(|w| w.to_string()).collect()
}

/// Shell text that starts a script which lies at `path`.
fn invocation(script: &str, path: &str) -> String {
    let mut words = interpreter(script, path);
    words.push(path.to_string());
    let quoted: Vec<String> = words.iter().map(|w| quote(w)).collect();
    quoted.join(" ")
}

/// A body that does nothing but become the script at `path`.
fn launcher(script: &str, path: &str) -> String {
    format!("#!/bin/sh\nexec {} \"$@\"\n", invocation(script, path))
}

/// A word as POSIX sh takes it literally.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The variables of an `environment` list.
///
/// # Errors
/// `InvalidSpec`, `SecretNotFound`.
fn environment(
    object: &GuestObject,
    list: Option<&[EnvVar]>,
    objects: &dyn Objects,
    field: &str,
) -> Result<BTreeMap<String, String>, Blocked> {
    let mut environment = BTreeMap::new();
    for variable in list.unwrap_or_default() {
        let name = &variable.name;
        let field = format!("{field}.environment[{name}]");
        let value = match (&variable.value, &variable.secret_key_ref) {
            (Some(value), _) => value.clone(),
            (None, Some(KeyRef { name, key })) => {
                let namespace = &object.key.namespace;
                let field = format!("{field}.secretKeyRef");
                let value = refs::secret_value(objects, namespace, name, key, &field)?;
                let named = refs::key_of_secret(namespace, name, key);
                no_nul(&format!("{field}: {named}"), &value)?;
                value
            }
            (None, None) => {
                return Err(invalid(format!(
                    "{field}: neither value nor secretKeyRef is given: give one"
                )));
            }
        };
        no_nul(&field, &value)?;
        environment.insert(name.clone(), value);
    }
    Ok(environment)
}

/// Refuses what no environment variable or argument can hold.
fn no_nul(field: &str, value: &str) -> Result<(), Blocked> {
    if value.contains('\0') {
        return Err(invalid(format!(
            "{field}: the value holds a NUL character, which no process can be given: take it out"
        )));
    }
    Ok(())
}
