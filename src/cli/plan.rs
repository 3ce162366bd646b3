//! `phoenix plan`: what `phoenix apply` would change on Proxmox and how hard each change hits, without doing it.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::desired::{GuestObject, ObjectName, Objects, hypervisor};
use crate::engine::preview::Preview;
use crate::estimate::{self, Durations};
use crate::plan::Impact;
use crate::reason::Reason;

use super::apply::{BAD_INPUT, Opened, Source};
use super::output::{self, Output};

/// Arguments of `phoenix plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Only objects of this PhoenixHypervisor
    #[arg(long)]
    hypervisor: Option<String>,
    /// Says, without asking Proxmox, how long it takes at least to make all of them anew, and what binds
    #[arg(long)]
    estimate: bool,
    /// Seconds that a piece of work takes on your hardware, for --estimate: create, clone-full, clone-linked, start, seal,
    /// script, model, request or allocation
    #[arg(long, value_name = "NAME=SECONDS", requires = "estimate")]
    took: Vec<String>,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t, conflicts_with = "estimate")]
    output: Output,
}

/// How hard a change hits, in one word.
fn word(impact: Impact) -> &'static str {
    match impact {
        Impact::Live => "live",
        Impact::Restart => "restart",
        Impact::Create => "create",
        Impact::Destroy => "destroy",
    }
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let opened = match self.source.read() {
            Ok(opened) => opened,
            Err(error) => {
                errln!("{error}");
                return ExitCode::from(BAD_INPUT);
            }
        };
        opened.tell_notes();
        if self.estimate {
            return self.estimated(&opened);
        }
        super::with_runtime(self.plan(&opened))
    }

    fn is_of(&self, object: &GuestObject) -> bool {
        let name = object.hypervisor_ref().name;
        self.hypervisor.as_ref().is_none_or(|hypervisor| name == *hypervisor)
    }

    /// Prints the limits, the one that binds first.
    fn estimated(&self, opened: &Opened) -> ExitCode {
        let mut durations = Durations::default();
        for took in &self.took {
            if let Err(error) = durations.set(took) {
                errln!("--took: {error}");
                return ExitCode::from(BAD_INPUT);
            }
        }
        let mut objects = opened.objects(&opened.keys());
        objects.retain(|object| self.is_of(object));
        let places = |name: &ObjectName| {
            let hypervisor = opened.store.hypervisor(&name.namespace, &name.name);
            hypervisor.map_or(1, |hypervisor| hypervisor::parallel_tasks(&hypervisor.spec))
        };
        let limits = estimate::limits(&objects, &durations, places);
        let Some(binding) = limits.first() else {
            outln!("no objects");
            return ExitCode::SUCCESS;
        };
        outln!(
            "{} objects take {:.0} s at least; the first of these limits binds:",
            objects.len(),
            binding.seconds
        );
        limits
            .iter()
            .filter(|limit| limit.seconds >= 1.0)
            .for_each(|limit| outln!("{limit}"));
        ExitCode::SUCCESS
    }

    async fn plan(&self, opened: &Opened) -> ExitCode {
        for ObjectName { namespace, name } in opened.store.hypervisors() {
            let outcome = opened.engine.poll(&namespace, &name).await;
            if let Err(error) = opened.store.store_hypervisor(&namespace, &name, outcome.status) {
                errln!("{error}");
            }
        }
        let (mut count, mut planned) = (Count::default(), Vec::new());
        let mut keys = opened.keys();
        keys.retain(|k| opened.store.guest(k).is_some_and(|object| self.is_of(&object)));
        for object in opened.objects(&keys) {
            let preview = opened.engine.preview(&object.key).await;
            match self.output {
                Output::Table => out!("{}", describe(&object, &preview, &mut count)),
                _ => {
                    describe(&object, &preview, &mut count);
                    planned.push(value(&object, &preview));
                }
            }
        }
        output::print(
            self.output,
            || json!({"objects": planned, "summary": count}),
            || format!("\n{count}"),
        );
        if count.blocked == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// What a plan comes to.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Count {
    live: usize,
    restart: usize,
    create: usize,
    destroy: usize,
    unchanged: usize,
    waiting: usize,
    blocked: usize,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} guests to create, {} to destroy, {} changes with a restart, {} live; \
             {} objects unchanged, {} waiting, {} blocked",
            self.create, self.destroy, self.restart, self.live, self.unchanged, self.waiting, self.blocked
        )
    }
}

/// Reasons that the objects of the same plan resolve by themselves, once it is carried out.
const PASSING: &[Reason] = &[Reason::TemplateNotReady, Reason::DependencyNotReady];

/// One object's part of the plan, for programs.
fn value(object: &GuestObject, preview: &Preview) -> Value {
    let steps = preview
        .steps
        .iter()
        .map(|(action, impact)| json!({"action": action, "impact": word(*impact)}));
    let blocked = preview.blocked.as_ref().map(|cause| {
        json!({
            "reason": cause.reason.as_str(),
            "message": cause.message,
            "passes": PASSING.contains(&cause.reason),
        })
    });
    json!({
        "kind": object.key.kind.as_str(),
        "namespace": object.key.namespace,
        "name": object.key.name,
        "steps": Vec::from_iter(steps),
        "blocked": blocked,
        "warnings": preview.warnings,
    })
}

/// One object's part of the plan.
fn describe(object: &GuestObject, preview: &Preview, count: &mut Count) -> String {
    let mut text = format!("{}\n", object.key);
    for (action, impact) in &preview.steps {
        match impact {
            Impact::Live => count.live += 1,
            Impact::Restart => count.restart += 1,
            Impact::Create => count.create += 1,
            Impact::Destroy => count.destroy += 1,
        }
        text.push_str(&format!("  {:8}  {action}\n", word(*impact)));
    }
    for warning in &preview.warnings {
        text.push_str(&format!("  warning   {warning}\n"));
    }
    match &preview.blocked {
        Some(cause) if PASSING.contains(&cause.reason) => {
            count.waiting += 1;
            text.push_str(&format!("  waits     {cause}\n"));
        }
        Some(cause) => {
            count.blocked += 1;
            text.push_str(&format!("  blocked   {cause}\n"));
        }
        None if preview.steps.is_empty() => {
            count.unchanged += 1;
            text.push_str("  no change\n");
        }
        None => {}
    }
    text
}
