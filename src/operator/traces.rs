//! Traces over OTLP (HTTP with protobuf): one a reconcile or poll, with a span for each step, request to Proxmox and command
//! on a node. What a span says is what the log may say: no parameters, bodies or credentials.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

/// Where a collector takes traces, below its address.
const PATH: &str = "/v1/traces";

/// How long the end of the process waits for spans that were not sent yet.
const LAST: Duration = Duration::from_secs(3);

/// Sends spans to a collector, in a thread of its own.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// To the collector at this address (`http://host:4318`). The variables `OTEL_EXPORTER_OTLP_HEADERS`,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_RESOURCE_ATTRIBUTES` count, too. Nothing is sent yet.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn new(endpoint: &str) -> Result<Self, String> {
        let address = reqwest::Url::parse(endpoint).map_err(|error| format!("{endpoint:?}: {error}"))?;
        if !["http", "https"].contains(&address.scheme()) {
            return Err(format!("{endpoint:?}: an address with http:// or https:// is needed"));
        }
        let endpoint = endpoint.trim_end_matches('/');
        let url = match endpoint.ends_with(PATH) {
            true => endpoint.to_string(),
            false => format!("{endpoint}{PATH}"),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder()
            .with_service_name("phoenix-operator")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Traces(provider))
    }

    /// Makes spans of what is traced.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("phoenix"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_traced))
    }

    /// Sends what was not sent yet.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Phoenix's own spans, and what is logged in them unless it is for finding defects. What sends the traces is not traced.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().starts_with("phoenix");
    own && match metadata.is_span() {
        true => *metadata.level() <= LevelFilter::DEBUG,
        false => *metadata.level() <= LevelFilter::INFO,
    }
}
