//! `phoenix logs`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::verbs::{Place, bad_input, tests};
use crate::cli::with_runtime;
use crate::desired::GuestObject;
use crate::desired::scripts::ModelServer;
use crate::remote::logs::{self, Log, Place as Read, last_lines};
use crate::remote::runner::Layout;

use super::Guest;

/// Pause between two looks at what was added, for `--follow`.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `phoenix logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Object: NAME, KIND/NAME or vmid
    #[arg(value_name = "NAME|VMID")]
    object: String,
    #[command(flatten)]
    place: Place,
    /// What a feature's script said
    #[arg(long, value_name = "NAME", group = "what")]
    feature: Option<String>,
    /// What the application script said; the default where the object has no model server
    #[arg(long, group = "what")]
    application: bool,
    /// What a test said
    #[arg(long, value_name = "NAME", group = "what")]
    test: Option<String>,
    /// The model server's journal (blocks vllm, ollama and llamacpp); the default where the object has one
    #[arg(long, alias = "server", group = "what")]
    vllm: bool,
    /// The journal of a systemd unit
    #[arg(long, value_name = "NAME", group = "what")]
    unit: Option<String>,
    /// Last lines to begin with
    #[arg(long, default_value_t = 100)]
    lines: u32,
    /// Go on with what is added, until interrupted (-f names manifests here)
    #[arg(long)]
    follow: bool,
}

/// Whose words are asked for.
#[derive(Debug, PartialEq, Eq)]
enum What {
    /// A script, by its id in the guest.
    Script(String),
    /// A unit, by name.
    Unit(String),
}

impl LogsArgs {
    /// Prints, and follows if that is asked for.
    pub fn run(self) -> ExitCode {
        with_runtime(self.show())
    }

    async fn show(self) -> ExitCode {
        let (guest, object) = match Guest::reach(&self.place, &self.object).await {
            Ok(reached) => reached,
            Err(message) => return bad_input(message),
        };
        match self.print_all(&guest, &object).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                errln!("{message}");
                ExitCode::FAILURE
            }
        }
    }

    fn what(&self, object: &GuestObject) -> What {
        let server = ModelServer::of(object).map(ModelServer::name);
        match (&self.feature, &self.test, &self.unit) {
            (Some(feature), ..) => What::Script(format!("feature-{feature}")),
            (_, Some(test), _) => What::Script(format!("test-{test}")),
            (.., Some(unit)) => What::Unit(unit.clone()),
            _ if self.vllm => What::Unit(format!("{}.service", server.unwrap_or("vllm"))),
            _ => match server.filter(|_| !self.application) {
                Some(name) => What::Unit(format!("{name}.service")),
                None => What::Script("application".into()),
            },
        }
    }

    async fn print_all(&self, guest: &Guest, object: &GuestObject) -> Result<(), String> {
        let what = self.what(object);
        let mut place = Read::Start;
        loop {
            match read(guest, &what, self.lines, &place).await? {
                Log::New(text, next) => {
                    let shown = if place == Read::Start {
                        last_lines(&text, self.lines)
                    } else {
                        &text
                    };
                    let mut out = std::io::stdout().lock();
                    // Whoever does not read what is printed any more wants no more of it.
                    if out.write_all(shown).and_then(|()| out.flush()).is_err() {
                        return Ok(());
                    }
                    if text.is_empty() && !self.follow {
                        let (What::Script(name) | What::Unit(name)) = &what;
                        errln!("{name} in {} said nothing", guest.named());
                    }
                    place = next;
                }
                // It may be about to run.
                log if self.follow && has(object, &what) => drop(log),
                log => return Err(nothing(guest, object, &what, &log)),
            }
            if !self.follow {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Reads what came after `place`.
async fn read(guest: &Guest, what: &What, lines: u32, place: &Read) -> Result<Log, String> {
    let vmid = guest.at.vmid;
    let command = match what {
        What::Script(id) => logs::said(vmid, id, place, &Layout::default()).map_err(|e| e.to_string())?,
        What::Unit(unit) => logs::journal(vmid, unit, lines, place),
    };
    let ran = guest.connection.in_guest(&guest.at, &command).await;
    let output = ran.map_err(|(failure, _)| failure.to_string())?;
    let answer = output.stdout.text();
    let log = match what {
        What::Script(_) => Log::of_script(&answer, place),
        What::Unit(_) => Log::of_unit(&answer, place),
    };
    log.map_err(|error| match output.complaint() {
        said if output.is_success() || said.contains("error=") => format!("{}: {error}", guest.named()),
        said => format!("{}: {said}", guest.named()),
    })
}

/// The ids of the scripts that the object has, as far as its spec and status tell.
fn scripts(object: &GuestObject) -> Vec<String> {
    let features = object.status.features.iter().flatten().map(|f| f.name.clone());
    let mut all: Vec<String> = features
        .chain(object.features().iter().map(|f| f.name.clone()))
        .map(|name| format!("feature-{name}"))
        .collect();
    all.sort();
    all.dedup();
    let application = object.shared().is_some_and(|s| s.application.is_some());
    all.extend(application.then(|| "application".to_string()));
    all.extend(tests(object).iter().map(|test| format!("test-{}", test.name)));
    all
}

fn has(object: &GuestObject, what: &What) -> bool {
    matches!(what, What::Script(id) if scripts(object).contains(id))
}

/// Why nothing is shown, and what there is.
fn nothing(guest: &Guest, object: &GuestObject, what: &What, log: &Log) -> String {
    let (What::Script(name) | What::Unit(name)) = what;
    let why = match log {
        Log::Gone => "it was not kept when the guest went down",
        _ => "it did not run here",
    };
    let known: Vec<String> = scripts(object).iter().map(|id| option(id)).collect();
    let there = if known.is_empty() {
        String::new()
    } else {
        format!(" {} has {};", object.key, known.join(", "))
    };
    format!(
        "nothing is kept of {name} in {}: {why}.{there} --unit NAME shows the journal of any unit",
        guest.named()
    )
}

/// The option that asks for a script.
fn option(id: &str) -> String {
    for kind in ["feature", "test"] {
        if let Some(name) = id.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-')) {
            return format!("--{kind} {name}");
        }
    }
    format!("--{id}")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::crd::{PhoenixLXC, PhoenixVM};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        logs: LogsArgs,
    }

    #[test]
    fn what_is_shown_follows_from_the_options_and_the_object() {
        let lxc = |spec| {
            let value = json!({"metadata": {"name": "a", "namespace": "ai"}, "spec": spec});
            GuestObject::from(&serde_json::from_value::<PhoenixLXC>(value).unwrap())
        };
        let vm = json!({"metadata": {"name": "a", "namespace": "ai"}, "spec": {"hypervisorRef": {"name": "pve"}}});
        let vm = GuestObject::from(&serde_json::from_value::<PhoenixVM>(vm).unwrap());
        let hypervisor = json!({"name": "pve"});
        let plain = lxc(json!({"hypervisorRef": hypervisor, "features": [{"name": "docker"}],
            "application": {"script": "true"}, "tests": [{"name": "works", "script": "true"}]}));
        let serves = lxc(json!({"hypervisorRef": hypervisor, "vllm": {"model": "m"}}));
        let script = |id: &str| What::Script(id.into());
        let vllm = || What::Unit("vllm.service".into());
        for (object, options, wanted) in [
            (&plain, "", script("application")),
            (&vm, "", script("application")),
            (&serves, "", vllm()),
            (&serves, "--application", script("application")),
            (&plain, "--vllm", vllm()),
            (&serves, "--feature nvidia", script("feature-nvidia")),
            (&vm, "--test works", script("test-works")),
            (&serves, "--unit docker.service", What::Unit("docker.service".into())),
        ] {
            let line = ["logs", "a"].into_iter().chain(options.split_whitespace());
            assert_eq!(Line::parse_from(line).logs.what(object), wanted, "{options}");
        }
        assert!(Line::try_parse_from(["logs", "a", "--vllm", "--application"]).is_err());
        let all: Vec<String> = scripts(&plain).iter().map(|id| option(id)).collect();
        assert_eq!(all, ["--feature docker", "--application", "--test works"]);
        assert!(has(&plain, &script("test-works")) && !has(&plain, &script("test-fails")));
    }
}
