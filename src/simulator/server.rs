//! The HTTP server in front of [`Simulator::handle`], with a certificate authority of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::{Request, Response, StatusCode, header};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use tower::service_fn;

use super::Simulator;
use super::api::{HttpReply, HttpRequest};

/// Largest request body that is read at all.
const LARGEST_READ: usize = 4 << 20;

type Failure = io::Error;

/// A self-made certificate authority with a certificate for the server.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// Certificate of the authority, PEM.
    pub ca_pem: String,
    /// Certificate of the server, PEM.
    pub cert_pem: String,
    /// Key of the server, PEM.
    pub key_pem: String,
}

impl Certificates {
    /// Makes an authority and a certificate for the given names and addresses.
    pub fn generate(names: &[String]) -> Result<Self, rcgen::Error> {
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Proxmox Virtual Environment (simulated)");
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::DigitalSignature,
        ];
        let ca_key = rcgen::KeyPair::generate()?;
        let ca = params.self_signed(&ca_key)?;
        let issuer = rcgen::Issuer::new(params, ca_key);
        let mut params = rcgen::CertificateParams::new(names.to_vec())?;
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, names.first().cloned().unwrap_or_default());
        let key = rcgen::KeyPair::generate()?;
        let cert = params.signed_by(&key, &issuer)?;
        Ok(Self {
            ca_pem: ca.pem(),
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// SHA-256 of the server certificate as Proxmox prints it.
    pub fn fingerprint(&self) -> io::Result<String> {
        fingerprint(&self.cert_pem)
    }

    /// SHA-256 of the authority's certificate.
    pub fn ca_fingerprint(&self) -> io::Result<String> {
        fingerprint(&self.ca_pem)
    }

    fn server_config(&self) -> io::Result<rustls::ServerConfig> {
        use rustls_pki_types::pem::PemObject as _;
        let cert = CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).map_err(io::Error::other)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![cert], PrivateKeyDer::Pkcs8(key))
            .map_err(io::Error::other)?;
        // Proxmox has no HTTP/2 (facts A.1).
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn fingerprint(pem: &str) -> io::Result<String> {
    use rustls_pki_types::pem::PemObject as _;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(io::Error::other)?;
    let parts: Vec<String> = Sha256::digest(&der).iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(parts.join(":"))
}

/// A server that listens. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    /// `https://…` or `http://…` without a path.
    pub base_url: String,
    handle: Handle<SocketAddr>,
}

impl Server {
    /// Stops at once; open connections are cut.
    pub fn stop(&self) {
        self.handle.shutdown();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A look-alike with its server, as tests use it.
#[derive(Debug)]
pub struct Running {
    /// The look-alike.
    pub simulator: Simulator,
    /// Its server; stops when dropped.
    pub server: Server,
    /// Its certificates.
    pub certificates: Certificates,
}

impl Simulator {
    /// Sets up a look-alike that serves HTTPS on a free loopback port.
    pub async fn start(config: super::SimConfig) -> io::Result<Running> {
        let simulator = Self::new(config)?;
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificates = Certificates::generate(&names).map_err(io::Error::other)?;
        let server = simulator
            .serve(SocketAddr::from(([127, 0, 0, 1], 0)), Some(&certificates))
            .await?;
        Ok(Running {
            simulator,
            server,
            certificates,
        })
    }

    /// Serves the API on `listen` (port 0 picks a free one); without certificates by plain HTTP, for tests.
    pub async fn serve(&self, listen: SocketAddr, certificates: Option<&Certificates>) -> io::Result<Server> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let handle = Handle::new();
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let server = Server {
            addr,
            base_url: format!("{scheme}://{addr}"),
            handle: handle.clone(),
        };
        let simulator = self.clone();
        let make = service_fn(move |_peer: SocketAddr| {
            let simulator = simulator.clone();
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let simulator = simulator.clone();
                    async move { simulator.respond(request).await }
                });
                Ok::<_, Failure>(service)
            }
        });
        match certificates {
            Some(certificates) => {
                let fingerprint = certificates.fingerprint()?;
                let ca = certificates.ca_fingerprint()?;
                self.with(|state| (state.fingerprint, state.ca_fingerprint) = (Some(fingerprint), Some(ca)));
                let config = RustlsConfig::from_config(Arc::new(certificates.server_config()?));
                let server = axum_server::from_tcp_rustls(listener, config)?.handle(handle);
                tokio::spawn(async move { server.serve(make).await });
            }
            None => {
                let server = axum_server::from_tcp(listener)?.handle(handle);
                tokio::spawn(async move { server.serve(make).await });
            }
        }
        Ok(server)
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let body = Limited::new(body, LARGEST_READ)
            .collect()
            .await
            .map_err(io::Error::other)?
            .to_bytes()
            .to_vec();
        let request = HttpRequest {
            method: parts.method.as_str().to_owned(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            authorization: header("authorization"),
            cookie: header("cookie"),
            csrf: header("csrfpreventiontoken"),
            content_type: header("content-type"),
            body,
        };
        let reply = if request.path.starts_with("/_sim/") {
            self.handle_control(&request)
        } else {
            self.handle(&request).await
        };
        if reply.delay_ms > 0 {
            self.clock().sleep(reply.delay_ms).await;
        }
        if reply.cut {
            return Err(io::Error::other("connection cut by order"));
        }
        respond_with(reply)
    }
}

fn respond_with(reply: HttpReply) -> Result<Response<Full<Bytes>>, Failure> {
    let status = StatusCode::from_u16(reply.status).map_err(io::Error::other)?;
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, reply.content_type)
        .header(header::SERVER, "pve-api-daemon/3.0")
        .header(header::CACHE_CONTROL, "max-age=0")
        .header(header::PRAGMA, "no-cache");
    if reply.status >= 400 {
        response = response.header(header::CONNECTION, "close");
    }
    let mut response = response
        .body(Full::new(Bytes::from(reply.body)))
        .map_err(io::Error::other)?;
    // Text with characters that a status line cannot carry turns into the usual phrase (facts A.1).
    if let Ok(reason) = ReasonPhrase::try_from(reply.reason.into_bytes()) {
        response.extensions_mut().insert(reason);
    }
    Ok(response)
}
