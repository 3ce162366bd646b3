//! `/healthz`, `/readyz` and `/metrics` over HTTP or HTTPS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum_server::tls_rustls::RustlsConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

use super::access::Access;
use super::objects::coverage::Coverage;
use super::objects::store::KubeStore;

/// How often certificate and key are read anew, which somebody renews.
const RELOAD: Duration = Duration::from_secs(60);

/// How probes and metrics are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// Files with certificate and key (PEM), for HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether the API server is asked who may read `/metrics`.
    pub authorized: bool,
}

/// What the answers are made from.
#[derive(Clone)]
pub struct Probes {
    /// Who may read metrics; everybody without it.
    pub(super) access: Option<Arc<Access>>,
    /// What the operator can read.
    pub(super) coverage: watch::Receiver<Coverage>,
    /// Metrics, and the objects that they tell of.
    pub store: Arc<KubeStore>,
}

/// Answers until the process ends.
///
/// # Errors
/// Those of the listener, or of the first look at certificate and key.
pub async fn serve(listener: TcpListener, serving: &Serving, probes: Probes) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(probes);
    let Some((certificate, key)) = &serving.tls else {
        return axum::serve(listener, router).await;
    };
    let config = RustlsConfig::from_pem_file(certificate, key).await?;
    let server = axum_server::from_tcp_rustls(listener.into_std()?, config.clone())?;
    let renew = async {
        loop {
            tokio::time::sleep(RELOAD).await;
            if let Err(error) = config.reload_from_pem_file(certificate, key).await {
                warn!(%error, "the certificate of --metrics-tls-cert cannot be read anew, the old one stays");
            }
        }
    };
    tokio::select! {
        biased;
        served = server.serve(router.into_make_service()) => served,
        () = renew => Ok(()),
    }
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

async fn metrics(State(probes): State<Probes>, headers: HeaderMap) -> impl IntoResponse {
    if let Some(access) = &probes.access
        && let Err(status) = access.check(&headers, "/metrics").await
    {
        let words = match status {
            StatusCode::SERVICE_UNAVAILABLE => "the API server could not be asked who may read this\n",
            _ => "a token that may get the nonResourceURL /metrics is needed\n",
        };
        return (status, words).into_response();
    }
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
            access: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { serve(listener, &Serving::default(), probes).await });
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

    /// A server with a certificate of its own, which asks an API server that does not answer.
    #[tokio::test]
    async fn metrics_are_told_over_tls_to_whom_the_api_server_allows() {
        let store = store();
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let first = made("localhost");
        std::fs::write(&certificate, first.cert.pem()).unwrap();
        std::fs::write(&key, first.signing_key.serialize_pem()).unwrap();
        let (_sender, coverage) = watch::channel(Coverage::default());
        let probes = Probes {
            coverage,
            access: Some(Arc::new(Access::new(store.client.clone()))),
            store,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = Serving {
            tls: Some((certificate, key)),
            authorized: true,
        };
        let server = tokio::spawn(async move { serve(listener, &serving, probes).await });
        let root = reqwest::Certificate::from_pem(first.cert.pem().as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([root])
            .no_proxy()
            .build()
            .unwrap();
        let get = async |path: &str, token: &str| {
            let request = client.get(format!("https://localhost:{port}{path}")).bearer_auth(token);
            request.send().await.unwrap().status().as_u16()
        };
        assert_eq!(get("/healthz", "").await, 200, "kubelet has no token");
        assert_eq!(get("/metrics", "").await, 401);
        assert_eq!(get("/metrics", "some").await, 503);
        server.abort();
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_there_ends_the_process() {
        let (_sender, coverage) = watch::channel(Coverage::default());
        let probes = Probes {
            coverage,
            access: None,
            store: store(),
        };
        let serving = Serving {
            tls: Some(("/nowhere/tls.crt".into(), "/nowhere/tls.key".into())),
            authorized: false,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(serve(listener, &serving, probes).await.is_err());
    }
}
