//! What engine and clients tell of, counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::desired::{Key, ObjectName};
use crate::engine::{Counters, Ended, Meters};
use crate::observed::{Inventory, ProbeAnswer, ProbeKind, Serving};
use crate::proxmox::{self, ApiCall, Came};
use crate::reason::Reason;
use crate::remote;

use super::labels::*;
use super::{Histograms, Metrics};

impl Counters for Metrics {
    fn probe(&self, kind: ProbeKind, answer: &ProbeAnswer) {
        let result = match answer {
            ProbeAnswer::Succeeded(_) => "success",
            ProbeAnswer::Failed(_) => "failure",
            ProbeAnswer::Unknown(_) => "unknown",
            // Counted when it is answered.
            ProbeAnswer::UnderWay => return,
        };
        let probe = kind.as_str();
        self.probes.get_or_create(&Probe { probe, result }).inc();
    }

    fn serving(&self, key: &Key, serving: &Serving) {
        self.served().insert(key.clone(), (Instant::now(), serving.clone()));
    }

    fn health_restart(&self, key: &Key) {
        let kind = key.kind.as_str();
        self.health_restarts.get_or_create(&OfKind { kind }).inc();
    }

    fn panicked(&self, kind: &'static str) {
        self.panics.get_or_create(&OfKind { kind }).inc();
    }

    fn step(&self, key: &Key, effect: &'static str, ended: Ended, took: Duration) {
        let result = match ended {
            Ended::Done => "done",
            Ended::Started => "started",
            Ended::Busy => "busy",
            Ended::Failed(reason) => {
                self.failed(key, reason);
                "failed"
            }
        };
        let kind = key.kind.as_str();
        self.steps.get_or_create(&StepResult { kind, effect, result }).inc();
        self.step_durations
            .get_or_create(&Effect { effect })
            .observe(took.as_secs_f64());
    }

    fn task(&self, key: &Key, type_: &str, failure: Option<Reason>, seconds: i64) {
        if let Some(reason) = failure {
            self.failed(key, reason);
        }
        let labels = TaskResult {
            r#type: type_.into(),
            result: if failure.is_some() { "failed" } else { "succeeded" },
        };
        // The node's clock may be ahead.
        self.task_durations
            .get_or_create(&labels)
            .observe(seconds.max(0) as f64);
    }

    fn drift(&self, key: &Key, field: &'static str) {
        let kind = key.kind.as_str();
        self.drift.get_or_create(&Drift { kind, field }).inc();
    }

    fn cards(&self, hypervisor: &ObjectName, inventory: &Inventory) {
        self.looked_at().insert(hypervisor.clone(), inventory.clone());
    }

    fn meters(&self, hypervisor: &ObjectName) -> Meters {
        let traffic = Arc::new(Traffic {
            of: Hypervisor::of(hypervisor),
            requests: self.requests.clone(),
            request_durations: self.request_durations.clone(),
            certificates: self.certificates.clone(),
            ssh_connections: self.ssh_connections.clone(),
            ssh_commands: self.ssh_commands.clone(),
            ssh_durations: self.ssh_durations.clone(),
        });
        Meters {
            api: traffic.clone(),
            ssh: traffic,
        }
    }
}

impl Metrics {
    fn failed(&self, key: &Key, reason: Reason) {
        let labels = Failure {
            kind: key.kind.as_str(),
            reason: reason.as_str(),
        };
        self.step_failures.get_or_create(&labels).inc();
    }
}

/// Counts what goes to one hypervisor.
#[derive(Debug)]
struct Traffic {
    of: Hypervisor,
    requests: Family<Request, Counter>,
    request_durations: Histograms<Route>,
    certificates: Family<Host, Gauge>,
    ssh_connections: Family<SshResult, Counter>,
    ssh_commands: Family<SshResult, Counter>,
    ssh_durations: Histograms<Hypervisor>,
}

impl Traffic {
    fn ssh(&self, result: &'static str) -> SshResult {
        let Hypervisor { namespace, hypervisor } = self.of.clone();
        SshResult {
            namespace,
            hypervisor,
            result,
        }
    }
}

impl proxmox::Meter for Traffic {
    fn request(&self, call: &ApiCall, came: Came, took: Duration) {
        let Hypervisor { namespace, hypervisor } = self.of.clone();
        let (method, route) = (call.method.as_str(), call.route());
        let labels = Route {
            namespace: namespace.clone(),
            hypervisor: hypervisor.clone(),
            method,
            route: route.clone(),
        };
        self.request_durations
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        let code = came.code().into_owned();
        let labels = Request {
            namespace,
            hypervisor,
            method,
            route,
            code,
        };
        self.requests.get_or_create(&labels).inc();
    }

    fn certificate(&self, host: &str, ends: i64) {
        let Hypervisor { namespace, hypervisor } = self.of.clone();
        let host = host.into();
        let labels = Host {
            namespace,
            hypervisor,
            host,
        };
        self.certificates.get_or_create(&labels).set(ends);
    }
}

impl remote::Meter for Traffic {
    fn connected(&self, error: Option<&remote::Error>) {
        let labels = self.ssh(error.map_or("ok", remote::Error::word));
        self.ssh_connections.get_or_create(&labels).inc();
    }

    fn ran(&self, result: Result<&remote::Output, &remote::Error>, took: Duration) {
        let labels = self.ssh(match result {
            Ok(output) if output.is_success() => "ok",
            Ok(_) => "exit_code",
            Err(error) => error.word(),
        });
        self.ssh_commands.get_or_create(&labels).inc();
        self.ssh_durations.get_or_create(&self.of).observe(took.as_secs_f64());
    }
}
