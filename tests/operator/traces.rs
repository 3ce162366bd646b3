//! What a collector gets of a whole operator's work: a trace each reconcile, with steps and requests in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use phoenix::operator::Traces;
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;
use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt;

use crate::operated::{Site, lxc, template_of};

type Bodies = Arc<Mutex<Vec<Bytes>>>;

async fn take(State(bodies): State<Bodies>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    bodies.lock().unwrap().push(body);
    Vec::new()
}

/// A collector on a port of its own, in real time.
fn collector() -> (tokio::runtime::Runtime, String, Bodies) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let bodies = Bodies::default();
    let router = Router::new().route("/v1/traces", post(take)).with_state(bodies.clone());
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(async { axum::serve(listener, router).await });
    (runtime, url, bodies)
}

/// A text of a span.
fn attribute<'s>(span: &'s Span, key: &str) -> &'s str {
    let found = span.attributes.iter().find(|a| a.key == key);
    let value = found.and_then(|a| a.value.as_ref()).and_then(|v| v.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text,
        _ => "",
    }
}

/// The spans from a span up to the root, its own first.
fn chain<'s>(spans: &'s BTreeMap<&[u8], &Span>, span: &'s Span) -> Vec<&'s str> {
    let up = std::iter::successors(Some(span), |span| spans.get(span.parent_span_id.as_slice()).copied());
    up.map(|span| span.name.as_str()).collect()
}

#[test]
fn each_reconcile_is_a_trace_with_its_steps_and_requests() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (_runtime, url, bodies) = collector();
    let traces = Traces::new(&url).unwrap();
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    // Tests in other threads have no subscriber. Where there is only one, tracing asks that of whatever thread meets a place
    // first whether anybody wants to know of it; of two it asks both.
    let _second = Dispatch::new(tracing_subscriber::registry());
    let (token, password) = tracing::subscriber::with_default(subscriber, || {
        crate::inprocess::runtime().block_on(async {
            let site = Site::new();
            let _operator = site.operator("one");
            site.connect();
            site.apply(template_of("base", "Snapshot"));
            let own = json!({"source": {"templateRef": {"name": "base"}}, "capabilities": {"fuse": true}});
            site.apply(lxc("a", 0, own));
            site.apply(lxc("b", 1, json!({"rootfs": {"storage": "nowhere", "size": "4Gi"}})));
            let stalled = |site: &Site| site.words().contains("Stalled");
            let done = |site: &Site| stalled(site) && site.words().matches("\"Ready\"").count() == 3;
            site.until("two are Ready and one is stalled", done).await;
            // What is under way ends.
            tokio::time::sleep(Duration::from_secs(10)).await;
            site.secrets.clone()
        })
    });
    traces.end();

    let bodies = bodies.lock().unwrap();
    let requests = bodies
        .iter()
        .map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap());
    let requests: Vec<_> = requests.collect();
    let resources: Vec<_> = requests.iter().flat_map(|request| &request.resource_spans).collect();
    let named = |key: &str, value: &str| {
        let told = format!("{:?}", resources[0].resource);
        assert!(told.contains(key) && told.contains(value), "{told}");
    };
    named("service.name", "phoenix-operator");
    named("service.version", env!("CARGO_PKG_VERSION"));
    let all: Vec<&Span> = resources
        .iter()
        .flat_map(|r| &r.scope_spans)
        .flat_map(|s| &s.spans)
        .collect();
    assert!(all.len() < 2048, "{} spans may be more than the queue holds", all.len());
    let spans: BTreeMap<&[u8], &Span> = all.iter().map(|span| (span.span_id.as_slice(), *span)).collect();

    // Nothing hangs in the air, and each root has a trace of its own.
    let roots: Vec<&&Span> = all.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    let own: BTreeSet<&[u8]> = roots.iter().map(|span| span.trace_id.as_slice()).collect();
    assert_eq!(own.len(), roots.len());
    for span in all.iter().filter(|span| !span.parent_span_id.is_empty()) {
        let parent = spans[span.parent_span_id.as_slice()];
        assert_eq!(span.trace_id, parent.trace_id, "{} in {}", span.name, parent.name);
    }
    let reconciles = roots.iter().filter(|span| span.name == "reconcile");
    let results: BTreeSet<(&str, &str)> = reconciles
        .map(|span| (attribute(span, "name"), attribute(span, "result")))
        .collect();
    for result in [("a", "progressing"), ("a", "ready"), ("b", "stalled")] {
        assert!(results.contains(&result), "{result:?} is not in {results:?}");
    }

    // The clone: a request in a step in a reconcile.
    let clone = "POST /nodes/{node}/lxc/{vmid}/clone";
    let clone = all.iter().find(|span| span.name == clone).unwrap();
    assert_eq!(chain(&spans, clone)[1..], ["step", "reconcile"]);
    assert_eq!(clone.kind(), SpanKind::Client);
    assert_eq!(attribute(clone, "http.request.method"), "POST");
    assert_eq!(attribute(clone, "server.address"), "pve.test:8006");
    let step = spans[clone.parent_span_id.as_slice()];
    assert!(attribute(step, "action").contains("clone"), "{step:?}");
    let poll = all.iter().find(|span| span.name == "GET /cluster/resources").unwrap();
    assert_eq!(chain(&spans, poll)[1..], ["poll"]);
    let failed = |span: &&&Span| span.status.as_ref().is_some_and(|s| s.code() == StatusCode::Error);
    for span in all.iter().filter(failed) {
        assert!(span.name != "proxmox" && !span.name.is_empty(), "{span:?}");
    }

    // No credential left: neither the token nor the password, nor a ticket that was fetched with it.
    let ticket = all.iter().filter(|span| span.name == "POST /access/ticket").count();
    assert!(ticket >= 1, "a ticket was fetched");
    for secret in [token.as_str(), &password, "PVE:root@pam"] {
        let found = bodies
            .iter()
            .any(|body| body.windows(secret.len()).any(|part| part == secret.as_bytes()));
        assert!(!found, "{secret}");
    }
}

#[test]
fn an_address_that_is_none_is_refused() {
    for address in ["http://collector:port", "collector:4318", "grpc://collector:4317"] {
        assert!(Traces::new(address).is_err(), "{address}");
    }
}
