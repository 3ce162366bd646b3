//! `phoenix operator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::engine::{Engine, EngineOptions};
use crate::operator::{self, KubeStore, Options, Serving, Traces};

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

    /// File with the certificate (PEM) with which they are served over HTTPS; it may be renewed meanwhile
    #[arg(
        long,
        value_name = "FILE",
        env = "PHOENIX_METRICS_TLS_CERT",
        requires = "metrics_tls_key"
    )]
    metrics_tls_cert: Option<PathBuf>,

    /// File with its key
    #[arg(
        long,
        value_name = "FILE",
        env = "PHOENIX_METRICS_TLS_KEY",
        requires = "metrics_tls_cert"
    )]
    metrics_tls_key: Option<PathBuf>,

    /// Who may read /metrics: everybody, or whoever the API server allows to get that path
    #[arg(
        long,
        value_name = "WHO",
        env = "PHOENIX_METRICS_AUTH",
        default_value = "none",
        requires_if("kubernetes", "metrics_tls_cert")
    )]
    metrics_auth: MetricsAuth,

    /// Address of a page that shows the fleet to everybody who can connect, read-only: such as 127.0.0.1:8081. None without
    /// it
    #[arg(long, value_name = "ADDR", env = "PHOENIX_UI_LISTEN")]
    ui_listen: Option<SocketAddr>,

    /// Make Services for guests that are to be reached by name (expose of PhoenixLXC and PhoenixVM); needs the rights that
    /// phoenix install --expose grants
    #[arg(
        long,
        env = "PHOENIX_EXPOSE",
        num_args = 0..=1,
        default_value = "false",
        default_missing_value = "true"
    )]
    expose: bool,

    /// Form of the log; RUST_LOG chooses what is logged
    #[arg(long, value_name = "FORM", env = "PHOENIX_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// Address of an OpenTelemetry collector that takes traces over HTTP, such as http://collector:4318; none without it
    #[arg(long, value_name = "URL", env = "PHOENIX_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,

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

/// Who may read /metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MetricsAuth {
    /// Everybody who can connect.
    None,
    /// Whoever shows a token that the API server allows to get the nonResourceURL /metrics.
    Kubernetes,
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
        // Already installed: then it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let traces = self
            .otlp_endpoint
            .as_deref()
            .filter(|url| !url.is_empty())
            .map(Traces::new);
        let traces = match traces.transpose() {
            Ok(traces) => traces,
            Err(error) => {
                log_to_stderr(self.log_format, None);
                error!(error, "--otlp-endpoint cannot be used");
                return ExitCode::FAILURE;
            }
        };
        log_to_stderr(self.log_format, traces.as_ref());
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
        let code = match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => {
                let failed = anyhow::Error::new(failed);
                error!(error = format!("{failed:#}"), "operator ended");
                ExitCode::FAILURE
            }
        };
        if let Some(traces) = traces {
            traces.end();
        }
        code
    }

    fn options(self) -> Options {
        Options {
            namespaces: self.namespaces.into_iter().filter(|n| !n.is_empty()).collect(),
            metrics_listen: self.metrics_listen,
            serving: Serving {
                tls: self.metrics_tls_cert.zip(self.metrics_tls_key),
                authorized: self.metrics_auth == MetricsAuth::Kubernetes,
            },
            ui_listen: self.ui_listen,
            lease: self.leader_elect.then_some((self.lease_namespace, self.lease_name)),
            role_binding: self.role_binding,
            expose: self.expose,
            concurrency: self.concurrency.into(),
            grace: Duration::from_secs(self.grace),
        }
    }
}

/// Logs to standard error, and makes traces where they are asked for: each has its own choice of what it takes.
fn log_to_stderr(format: LogFormat, traces: Option<&Traces>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Text => {
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let ansi = !plain && std::io::IsTerminal::is_terminal(&std::io::stderr());
            log.with_ansi(ansi).boxed()
        }
        LogFormat::Json => log.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(traces.map(Traces::layer))
        .init();
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

    /// A token is not sent in the clear.
    #[test]
    fn tokens_are_asked_for_over_tls_only() {
        let tls = ["--metrics-tls-cert", "/tls.crt", "--metrics-tls-key", "/tls.key"];
        let refused = |line: &[&str]| Command::try_parse_from(["operator"].iter().chain(line)).is_err();
        assert!(refused(&["--metrics-auth", "kubernetes"]));
        assert!(refused(&tls[..2]) && refused(&tls[2..]));
        assert_eq!(options(&[]).serving, Serving::default());
        let serving = options(&[&tls[..], &["--metrics-auth", "kubernetes"]].concat()).serving;
        assert!(serving.authorized && serving.tls == Some(("/tls.crt".into(), "/tls.key".into())));
    }

    #[test]
    fn there_is_no_page_unless_asked_for() {
        assert_eq!(options(&[]).ui_listen, None);
        let options = options(&["--ui-listen", "127.0.0.1:8081"]);
        assert_eq!(options.ui_listen, Some(([127, 0, 0, 1], 8081).into()));
    }

    #[test]
    fn several_processes_need_a_lease() {
        assert_eq!(options(&[]).lease, None);
        let options = options(&["--leader-elect", "--lease-namespace", "infra"]);
        assert_eq!(options.lease, Some(("infra".into(), "phoenix-operator".into())));
    }
}
