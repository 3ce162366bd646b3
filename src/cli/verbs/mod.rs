//! `phoenix start|stop|restart|reconcile|status|delete`: the verbs of the legacy commands, on objects by name or vmid. With `-f`
//! they act on manifests and their state folder, without it on a Kubernetes cluster ([`cluster`]).

pub(super) mod cluster;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::crd::{GuestKind, GuestTest, PAUSED, PowerState, RECONCILE, RESTARTED_AT, RUN_TESTS};
use crate::desired::{GuestObject, GuestSpec, Key, Objects};
use crate::pve::Vmid;
use crate::standalone::run::{End, Standing, run, standing};
use crate::standalone::state::Record;
use crate::standalone::table;

use super::apply::{BAD_INPUT, Opened, Source, progress};
use super::output::{self, Output};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `powerState: Running`.
    Start,
    /// `powerState: Stopped`.
    Stop,
    /// The annotation `restartedAt`.
    Restart,
    /// The annotation `runTests`.
    Test,
    /// The annotation `reconcile`: everything is tried at once.
    Reconcile,
    /// The annotation `paused`: nothing is done on Proxmox.
    Pause,
    /// Without that annotation.
    Resume,
    /// The object goes, and its guest as `deletionPolicy` says.
    Delete,
}

/// Where the objects are.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("manifests").args(["filename", "kustomize"]))]
pub struct Place {
    /// Manifests: files or folders; without them the cluster of KUBECONFIG, or the one that this runs in
    #[arg(short = 'f', long = "filename", num_args = 1)]
    filename: Vec<PathBuf>,
    /// Folder with a kustomization, built with kubectl or kustomize, in place of -f
    #[arg(short = 'k', long, value_name = "DIR")]
    kustomize: Option<PathBuf>,
    /// Namespace; with -f or -k that of objects that name none
    #[arg(short, long)]
    namespace: Option<String>,
    /// State folder; default: .phoenix beside the manifests
    #[arg(long, requires = "manifests")]
    state: Option<PathBuf>,
    /// Management cluster id, when the state folder was lost
    #[arg(long, requires = "manifests")]
    cluster_id: Option<String>,
    /// Divide all waits by this, for a simulator that runs faster than time
    #[arg(long, hide = true, default_value_t = 1.0)]
    time_scale: f64,
}

/// Arguments of the verbs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Objects: NAME, KIND/NAME or vmid
    #[arg(required = true, value_name = "NAME|VMID")]
    objects: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// Longest wait, such as 10m
    #[arg(long, default_value = "10m")]
    timeout: String,
}

/// Arguments of `phoenix status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Objects: NAME, KIND/NAME or vmid; all of them by default
    #[arg(value_name = "NAME|VMID")]
    objects: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Words for a kind: itself and its short name, in any case.
fn is_kind(kind: GuestKind, word: &str) -> bool {
    let short = match kind {
        GuestKind::PhoenixLXC => "plxc",
        GuestKind::PhoenixVM => "pvm",
        GuestKind::PhoenixTemplate => "ptpl",
    };
    word.eq_ignore_ascii_case(short) || word.eq_ignore_ascii_case(kind.as_str())
}

/// The object that a word names: by vmid where the word is a number that some object has, else by name.
///
/// # Errors
/// None or several of that name.
pub(super) fn find<'a>(
    objects: &'a [GuestObject],
    word: &str,
    namespace: Option<&str>,
) -> Result<&'a GuestObject, String> {
    let (kind, name) = word.split_once('/').map_or((None, word), |(k, n)| (Some(k), n));
    let of_place = |o: &&GuestObject| {
        namespace.is_none_or(|n| o.key.namespace == n) && kind.is_none_or(|word| is_kind(o.key.kind, word))
    };
    let vmid = name.parse::<Vmid>().ok();
    let by_vmid = |o: &&GuestObject| vmid.is_some() && o.status.vmid().or(o.spec_vmid()) == vmid;
    let mut found: Vec<&GuestObject> = objects.iter().filter(of_place).filter(by_vmid).collect();
    if found.is_empty() {
        found = objects.iter().filter(of_place).filter(|o| o.key.name == name).collect();
    }
    match found[..] {
        [one] => Ok(one),
        [] => Err(format!("there is no object named {word}, and none with that vmid")),
        _ => {
            let names: Vec<String> = found.iter().map(|o| o.key.to_string()).collect();
            Err(format!(
                "{word} names several objects: {}; write KIND/NAME, and --namespace",
                names.join(", ")
            ))
        }
    }
}

/// All objects that the words name; every one that cannot be found or acted on is an error.
fn chosen(
    objects: &[GuestObject],
    words: &[String],
    namespace: Option<&str>,
    verb: Option<Verb>,
) -> Result<Vec<GuestObject>, String> {
    let one = |word: &String| {
        let object = find(objects, word, namespace)?;
        verb.map_or(Ok(()), |verb| allowed(verb, object))?;
        Ok(object.clone())
    };
    let (found, failed): (Vec<_>, Vec<Result<_, String>>) = words.iter().map(one).partition(Result::is_ok);
    if failed.is_empty() {
        Ok(found.into_iter().flatten().collect())
    } else {
        let texts: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
        Err(texts.join("\n"))
    }
}

/// Whether the verb means something for the object.
fn allowed(verb: Verb, object: &GuestObject) -> Result<(), String> {
    let key = &object.key;
    match (&object.spec, verb) {
        (_, Verb::Delete | Verb::Reconcile | Verb::Pause | Verb::Resume) => Ok(()),
        (GuestSpec::Template(_), _) => Err(format!("{key} is a template, which stays stopped")),
        _ if object.deleting => Err(format!("{key} is being deleted")),
        _ if object.status.vmid().is_none() => Err(format!("{key} has no guest yet: apply it first")),
        (_, Verb::Test) if tests(object).is_empty() => Err(format!("{key} has no tests: give it some in spec.tests")),
        (_, Verb::Test) if power(object) == PowerState::Stopped => {
            Err(format!("{key} is stopped: phoenix start {}", key.name))
        }
        (_, Verb::Restart) if power(object) == PowerState::Stopped => {
            Err(format!("{key} is stopped: phoenix start {}", key.name))
        }
        _ => Ok(()),
    }
}

fn power(object: &GuestObject) -> PowerState {
    object.power_state().unwrap_or(PowerState::Running)
}

/// Whether the operator has seen that the object is paused.
fn is_paused(object: &GuestObject) -> bool {
    object
        .status
        .conditions
        .iter()
        .any(|c| c.type_ == "Paused" && c.status == "True")
}

/// The tests of a guest.
pub(super) fn tests(object: &GuestObject) -> &[GuestTest] {
    match &object.spec {
        GuestSpec::Template(_) => &[],
        _ => object.tests(),
    }
}

/// Hashes of the tests that ran: they change with each request.
fn test_hashes(object: &GuestObject) -> Vec<Option<String>> {
    let all = object.status.tests.iter().flatten();
    all.map(|test| test.hash.clone()).collect()
}

/// Whether every test has ended, and none of them is the run of before.
fn tested(object: &GuestObject, before: &[Option<String>]) -> bool {
    let results = object.status.tests.as_deref().unwrap_or_default();
    let ended = |state: Option<&str>| matches!(state, Some("Succeeded" | "Failed"));
    results.len() == tests(object).len()
        && results
            .iter()
            .all(|r| ended(r.state.as_deref()) && r.hash.is_some() && !before.contains(&r.hash))
}

/// Prints what each test came to; whether all passed.
fn print_tests(object: &GuestObject) -> bool {
    let mut passed = true;
    for result in object.status.tests.iter().flatten() {
        let well = result.state.as_deref() == Some("Succeeded");
        passed &= well;
        let code = result
            .exit_code
            .map_or(String::new(), |code| format!(" (exit code {code})"));
        outln!("{}: {}{code}", result.name, if well { "passed" } else { "failed" });
        for line in result.message.iter().flat_map(|m| m.lines()) {
            outln!("  {line}");
        }
    }
    passed
}

/// Now, as the annotation `restartedAt` says it.
fn stamp_of_now() -> String {
    k8s_openapi::jiff::Timestamp::now().to_string()
}

impl Place {
    /// All guest objects of the place, by kind, namespace and name.
    ///
    /// # Errors
    /// Refused manifests, or a cluster that cannot be reached.
    pub(super) async fn objects(&self) -> Result<Vec<GuestObject>, String> {
        match self.source() {
            Some(source) => Ok(sorted(source.read().map_err(|e| e.to_string())?.store.guests())),
            None => cluster::all(self.namespace.clone()).await,
        }
    }

    /// The namespace that was given.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The manifests' side; `None` means the cluster.
    pub(super) fn source(&self) -> Option<Source> {
        (!self.filename.is_empty() || self.kustomize.is_some()).then(|| Source {
            filename: self.filename.clone(),
            kustomize: self.kustomize.clone(),
            namespace: self.namespace.clone().unwrap_or_else(|| "default".into()),
            state: self.state.clone(),
            cluster_id: self.cluster_id.clone(),
            time_scale: self.time_scale,
        })
    }
}

pub(super) fn bad_input(message: impl std::fmt::Display) -> ExitCode {
    errln!("{message}");
    ExitCode::from(BAD_INPUT)
}

impl StatusArgs {
    /// Runs the command. With `-f` it shows what the state folder knows; nothing is asked of Proxmox.
    pub fn run(self) -> ExitCode {
        let Some(source) = self.place.source() else {
            return super::with_runtime(cluster::status(self.place.namespace.clone(), self.objects, self.output));
        };
        match source.read() {
            Ok(opened) => show(
                &sorted(opened.store.guests()),
                &self.objects,
                self.place.namespace.as_deref(),
                self.output,
            ),
            Err(error) => bad_input(error),
        }
    }
}

fn sorted(mut objects: Vec<GuestObject>) -> Vec<GuestObject> {
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    objects
}

/// Prints all objects, or those that are named.
fn show(objects: &[GuestObject], words: &[String], namespace: Option<&str>, output: Output) -> ExitCode {
    let shown = match words.is_empty() {
        true => Ok(objects.to_vec()),
        false => chosen(objects, words, namespace, None),
    };
    match shown {
        Ok(objects) => {
            output::print(output, || listed(&objects), || table::render(&objects));
            ExitCode::SUCCESS
        }
        Err(message) => bad_input(message),
    }
}

/// The objects with their statuses, as `kubectl get -o json` lists them.
fn listed(objects: &[GuestObject]) -> Value {
    let items: Vec<Value> = objects
        .iter()
        .map(|object| {
            json!({
                "apiVersion": format!("{}/{}", crate::crd::GROUP, crate::crd::VERSION),
                "kind": object.key.kind.as_str(),
                "metadata": {
                    "name": object.key.name,
                    "namespace": object.key.namespace,
                    "generation": object.generation,
                },
                "status": object.status,
            })
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// Prints what became of the objects that a verb was for.
fn report(verb: Verb, keys: &[Key], left: &[GuestObject]) -> ExitCode {
    if !left.is_empty() {
        outln!("{}", table::render(left));
    }
    let mut done = true;
    for key in keys {
        let object = left.iter().find(|o| o.key == *key);
        match (verb, object) {
            (Verb::Delete, None) => outln!("{key} is deleted"),
            (_, None) => outln!("{key} is gone"),
            (Verb::Delete, Some(_)) => done = false,
            (Verb::Pause, Some(object)) => done &= is_paused(object),
            (Verb::Test, Some(object)) => done &= print_tests(object) && standing(object) == Standing::Ready,
            (_, Some(object)) => done &= standing(object) == Standing::Ready,
        }
    }
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Args {
    /// Runs the verb and waits until it is so.
    pub fn run(self, verb: Verb) -> ExitCode {
        let Some(limit) = crate::pve::units::seconds(&self.timeout).map(Duration::from_secs) else {
            return bad_input(format!("--timeout: {:?} is not a duration such as 10m", self.timeout));
        };
        let Some(source) = self.place.source() else {
            return super::with_runtime(cluster::act(self.place.namespace.clone(), self.objects, verb, limit));
        };
        let opened = match source.open(Some(progress())) {
            Ok(opened) => opened,
            Err(error) => return bad_input(error),
        };
        let objects = opened.store.guests();
        match chosen(&objects, &self.objects, self.place.namespace.as_deref(), Some(verb)) {
            Ok(objects) => super::with_runtime(act(&opened, objects, verb, limit)),
            Err(message) => bad_input(message),
        }
    }
}

async fn act(opened: &Opened, objects: Vec<GuestObject>, verb: Verb, limit: Duration) -> ExitCode {
    let keys: Vec<Key> = objects.into_iter().map(|o| o.key).collect();
    for key in &keys {
        let wish = |record: &mut Record| match verb {
            Verb::Start => record.power_state = Some(PowerState::Running),
            Verb::Stop => record.power_state = Some(PowerState::Stopped),
            Verb::Restart => drop(record.annotations.insert(RESTARTED_AT.into(), stamp_of_now())),
            Verb::Test => drop(record.annotations.insert(RUN_TESTS.into(), stamp_of_now())),
            Verb::Reconcile => drop(record.annotations.insert(RECONCILE.into(), stamp_of_now())),
            // What a manifest says cannot be taken away here, but overridden.
            Verb::Pause => drop(record.annotations.insert(PAUSED.into(), "true".into())),
            Verb::Resume => drop(record.annotations.insert(PAUSED.into(), "false".into())),
            Verb::Delete => record.deleting = true,
        };
        if let Err(error) = opened.store.wish(key, wish) {
            errln!("{key}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if let Err(error) = opened.resume(&keys).await {
        errln!("{error}");
        return ExitCode::FAILURE;
    }
    let end = run(&opened.engine, &opened.store, &keys, limit).await;
    if end == End::TimedOut {
        errln!("it was not so within the time");
    }
    report(verb, &keys, &opened.objects(&keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{PhoenixLXC, PhoenixTemplate};

    fn lxc(namespace: &str, name: &str, vmid: Vmid) -> GuestObject {
        let value = json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"hypervisorRef": {"name": "pve"}, "vmid": vmid}, "status": {"vmid": vmid}});
        GuestObject::from(&serde_json::from_value::<PhoenixLXC>(value).unwrap())
    }

    fn template(name: &str) -> GuestObject {
        let value = json!({"metadata": {"name": name, "namespace": "ai"},
            "spec": {"hypervisorRef": {"name": "pve"}, "lxc": {}}});
        GuestObject::from(&serde_json::from_value::<PhoenixTemplate>(value).unwrap())
    }

    #[test]
    fn objects_are_found_by_vmid_kind_and_name() {
        let objects = [
            lxc("ai", "a", Vmid::nearest(950)),
            lxc("ai", "951", Vmid::nearest(7)),
            lxc("lab", "a", Vmid::nearest(951)),
            template("a"),
        ];
        let name = |word, namespace| find(&objects, word, namespace).map(|o| o.key.to_string());
        assert_eq!(name("950", None).unwrap(), "PhoenixLXC ai/a");
        // A vmid wins over a name that looks like one.
        assert_eq!(name("951", None).unwrap(), "PhoenixLXC lab/a");
        assert_eq!(name("951", Some("ai")).unwrap(), "PhoenixLXC ai/951");
        assert_eq!(name("ptpl/a", None).unwrap(), "PhoenixTemplate ai/a");
        assert_eq!(name("phoenixlxc/a", Some("lab")).unwrap(), "PhoenixLXC lab/a");
        assert!(name("a", None).unwrap_err().contains("PhoenixTemplate ai/a"));
        assert!(name("nobody", None).is_err());
    }

    #[test]
    fn verbs_that_mean_nothing_are_refused() {
        assert!(allowed(Verb::Stop, &template("a")).unwrap_err().contains("template"));
        assert!(allowed(Verb::Delete, &template("a")).is_ok());
        let mut object = lxc("ai", "a", Vmid::nearest(950));
        assert!(allowed(Verb::Restart, &object).is_ok());
        let GuestSpec::Lxc(spec) = &mut object.spec else {
            unreachable!()
        };
        spec.power_state = Some(PowerState::Stopped);
        assert!(allowed(Verb::Restart, &object).unwrap_err().contains("phoenix start a"));
        object.status.vmid = None;
        assert!(allowed(Verb::Start, &object).unwrap_err().contains("apply"));
        let objects = [object];
        let words = ["a".to_string(), "b".to_string()];
        let message = chosen(&objects, &words, None, Some(Verb::Stop)).unwrap_err();
        assert_eq!(message.lines().count(), 2, "{message}");
    }
}
