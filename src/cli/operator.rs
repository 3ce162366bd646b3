//! `phoenix operator`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::engine::{Engine, EngineOptions};
use crate::operator::{self, KubeStore, Options};

/// Arguments of `phoenix operator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Namespace to watch; may be given several times. Without it all namespaces are watched, which needs a
    /// ClusterRole
    #[arg(
        long = "namespace",
        short = 'n',
        value_name = "NS",
        env = "PHOENIX_NAMESPACES",
        value_delimiter = ','
    )]
    namespaces: Vec<String>,

    /// Address of /healthz, /readyz and /metrics
    #[arg(
        long,
        value_name = "ADDR",
        env = "PHOENIX_METRICS_LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    metrics_listen: SocketAddr,

    /// Form of the log; RUST_LOG chooses what is logged
    #[arg(long, value_name = "FORM", env = "PHOENIX_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// Let only one of several processes work, by a Lease
    #[arg(
        long,
        env = "PHOENIX_LEADER_ELECT",
        num_args = 0..=1,
        default_value = "false",
        default_missing_value = "true"
    )]
    leader_elect: bool,

    /// Name of the Lease
    #[arg(long, value_name = "NAME", default_value = "phoenix-operator")]
    lease_name: String,

    /// Namespace of the Lease
    #[arg(long, value_name = "NS", env = "POD_NAMESPACE", default_value = "phoenix-system")]
    lease_namespace: String,

    /// Name of the RoleBindings that give the operator its permissions: they stay while objects need them
    #[arg(long, value_name = "NAME", default_value = "phoenix-operator")]
    role_binding: String,

    /// Divides the waits of the engine, for a simulator that runs faster than time
    #[arg(long, value_name = "FACTOR", default_value = "1.0", hide = true)]
    time_scale: f64,

    /// Guests of one hypervisor that are worked on at once
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,

    /// Seconds that a stop waits for work under way
    #[arg(long, value_name = "SECONDS", default_value = "20")]
    grace: u64,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        log_to_stderr(self.log_format);
        // Already installed: then it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                error!(%error, "cannot start");
                return ExitCode::FAILURE;
            }
        };
        let time_scale = self.time_scale;
        let engine = |store: Arc<KubeStore>, cluster_id| {
            let mut options = EngineOptions::new(cluster_id);
            options.time_scale = time_scale;
            options.counters = Some(store.counters());
            Engine::new(store, options)
        };
        let ended = runtime.block_on(operator::run(self.options(), engine));
        // Work that outlived the grace period is dropped: the next run converges.
        runtime.shutdown_background();
        match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => {
                let failed = anyhow::Error::new(failed);
                error!(error = format!("{failed:#}"), "operator ended");
                ExitCode::FAILURE
            }
        }
    }

    fn options(self) -> Options {
        Options {
            namespaces: self.namespaces.into_iter().filter(|n| !n.is_empty()).collect(),
            metrics_listen: self.metrics_listen,
            lease: self.leader_elect.then_some((self.lease_namespace, self.lease_name)),
            role_binding: self.role_binding,
            concurrency: self.concurrency.into(),
            grace: Duration::from_secs(self.grace),
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let ansi = !plain && std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(ansi).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn options(line: &[&str]) -> Options {
        Command::parse_from(["operator"].iter().chain(line)).args.options()
    }

    #[test]
    fn namespaces_are_repeatable_or_separated_by_commas() {
        assert_eq!(options(&["-n", "a", "--namespace", "b,c"]).namespaces, ["a", "b", "c"]);
        assert!(options(&[]).namespaces.is_empty());
    }

    #[test]
    fn several_processes_need_a_lease() {
        assert_eq!(options(&[]).lease, None);
        let options = options(&["--leader-elect", "--lease-namespace", "infra"]);
        assert_eq!(options.lease, Some(("infra".into(), "phoenix-operator".into())));
    }
}
