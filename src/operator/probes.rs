//! `/healthz`, `/readyz` and `/metrics` over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::objects::coverage::Coverage;
use super::objects::store::KubeStore;

/// What the answers are made from.
#[derive(Clone)]
pub struct Probes {
    /// What the operator can read.
    pub(super) coverage: watch::Receiver<Coverage>,
    /// Metrics, and the objects that they tell of.
    pub store: Arc<KubeStore>,
}

/// Answers until the process ends.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener, probes: Probes) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(probes);
    axum::serve(listener, router).await
}

async fn ready(State(probes): State<Probes>) -> impl IntoResponse {
    let coverage = probes.coverage.borrow();
    let (status, word) = match coverage.may_begin() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let lines = std::iter::once(word.to_string()).chain(coverage.missing());
    (status, lines.map(|line| line + "\n").collect::<String>())
}

async fn metrics(State(probes): State<Probes>) -> impl IntoResponse {
    match probes.store.metrics_text() {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::objects::Kind;
    use crate::operator::objects::coverage::{Problem, Scope};
    use crate::operator::process::Process;

    fn store() -> Arc<KubeStore> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        Arc::new(KubeStore::new(Process::new(client), "phoenix", Arc::default()))
    }

    async fn fetch(address: std::net::SocketAddr, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    #[tokio::test]
    async fn readiness_follows_the_caches() {
        let scope = |namespace: Option<&str>, kind| Scope {
            namespace: namespace.map(String::from),
            kind,
        };
        let (all, ai) = (scope(None, Kind::Namespace), scope(Some("ai"), Kind::Secret));
        let (sender, coverage) = watch::channel(Coverage::default());
        for scope in [&all, &ai] {
            sender.send_modify(|coverage| coverage.expect(scope.clone()));
        }
        let probes = Probes {
            coverage,
            store: store(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, probes));
        assert_eq!(fetch(address, "/healthz").await.0, 200);
        sender.send_modify(|coverage| {
            coverage.failed(&ai, Problem::Forbidden);
        });
        let (status, text) = fetch(address, "/readyz").await;
        assert_eq!(status, 503);
        for words in [
            "all namespaces: not read yet: Namespace",
            "kubectl apply -n ai -k config/rbac/namespace",
        ] {
            assert!(text.contains(words), "{text}");
        }
        for scope in [&all, &ai] {
            sender.send_modify(|coverage| coverage.whole(scope));
        }
        let (status, text) = fetch(address, "/readyz").await;
        assert!(status == 200 && text.ends_with("\r\n\r\nok\n"), "{text}");
        let (status, text) = fetch(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("phoenix_queue_length 0"));
        server.abort();
    }
}
