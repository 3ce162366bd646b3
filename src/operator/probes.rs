//! `/healthz`, `/readyz` and `/metrics` over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::metrics::Metrics;

/// What the answers are made from.
#[derive(Clone)]
pub struct Probes {
    /// Watches that have not yet seen everything there is.
    pub unsynced: watch::Receiver<usize>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
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
    match *probes.unsynced.borrow() {
        0 => (StatusCode::OK, "ok\n".to_string()),
        n => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{n} kinds of objects have not been read yet\n"),
        ),
    }
}

async fn metrics(State(probes): State<Probes>) -> impl IntoResponse {
    match probes.metrics.text() {
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
        let (unsynced, receiver) = watch::channel(2);
        let probes = Probes {
            unsynced: receiver,
            metrics: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, probes));
        assert_eq!(fetch(address, "/healthz").await.0, 200);
        assert_eq!(fetch(address, "/readyz").await.0, 503);
        unsynced.send_replace(0);
        assert_eq!(fetch(address, "/readyz").await.0, 200);
        let (status, text) = fetch(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("phoenix_queue_length 0"));
        server.abort();
    }
}
