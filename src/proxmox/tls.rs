//! TLS to Proxmox: a CA, a pinned certificate, or (only when asked for) anything.
//!
//! Every way ends in one verifier that remembers the fingerprint of what it refused, because "the certificate is
//! wrong" helps nobody who cannot see which one was shown.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use super::meter::Meter;

/// How the endpoints prove who they are.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// A certificate of a CA that this machine trusts.
    #[default]
    Roots,
    /// A certificate of one of these CAs (PEM), such as the cluster's `/etc/pve/pve-root-ca.pem`.
    Ca(String),
    /// Exactly this certificate; names and dates are not looked at.
    Fingerprint(Fingerprint),
    /// Any certificate: whoever sits between can read the credential.
    InsecureSkipVerify,
}

/// SHA-256 of a certificate, written as Proxmox shows it: `AA:BB:…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

/// Accepts 64 hexadecimal digits with or without colons, in either case.
impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<u8> = text.trim().bytes().filter(|b| *b != b':').collect();
        let nibble = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
        let bytes: Option<Vec<u8>> = digits
            .chunks(2)
            .map(|p| Some(nibble(p[0])? << 4 | nibble(*p.get(1)?)?))
            .collect();
        let bytes = bytes.and_then(|b| <[u8; 32]>::try_from(b).ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no SHA-256 fingerprint (64 hexadecimal digits)"))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|b| format!("{b:02X}")).collect();
        f.write_str(&pairs.join(":"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the verifier refused; travels inside the TLS error to [`refusal`].
#[derive(Debug)]
pub(super) struct Refusal {
    pub expected: Option<Fingerprint>,
    pub actual: Fingerprint,
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Refusal {}

/// The rustls configuration for `tls`; an error says what is wrong with the given CA. `meter` is told when certificates
/// end.
pub(super) fn client_config(tls: &Tls, meter: Option<Arc<dyn Meter>>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let check = match tls {
        Tls::Roots => Check::WebPki(webpki(system_roots()?, &provider)?),
        Tls::Ca(pem) => Check::WebPki(webpki(pem_roots(pem)?, &provider)?),
        Tls::Fingerprint(pin) => Check::Pin(*pin),
        Tls::InsecureSkipVerify => Check::Nothing,
    };
    let verifier = Verifier {
        check,
        algorithms: provider.signature_verification_algorithms,
        meter,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

fn webpki(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|e| e.to_string())
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        Err("this machine trusts no CA: name one, or pin a fingerprint".into())
    } else {
        Ok(roots)
    }
}

fn pem_roots(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = der.map_err(|e| format!("the CA is no PEM certificate: {e}"))?;
        roots.add(der).map_err(|e| format!("the CA cannot be used: {e}"))?;
    }
    if roots.is_empty() {
        Err("the CA holds no PEM certificate".into())
    } else {
        Ok(roots)
    }
}

#[derive(Debug)]
enum Check {
    WebPki(Arc<WebPkiServerVerifier>),
    Pin(Fingerprint),
    Nothing,
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    algorithms: WebPkiSupportedAlgorithms,
    meter: Option<Arc<dyn Meter>>,
}

impl Verifier {
    /// Tells when an accepted certificate ends. One whose end cannot be read is none that says so.
    fn accepted(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>) {
        let Some(meter) = &self.meter else { return };
        if let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) {
            meter.certificate(&name.to_str(), certificate.validity().not_after.timestamp());
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let actual = Fingerprint::of(end_entity);
        let refuse = |expected, message: String| {
            let refusal = Refusal {
                expected,
                actual,
                message,
            };
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(
                Arc::new(refusal),
            ))))
        };
        let verdict = match &self.check {
            Check::Nothing => Ok(ServerCertVerified::assertion()),
            Check::Pin(pin) if *pin == actual => Ok(ServerCertVerified::assertion()),
            Check::Pin(pin) => refuse(Some(*pin), "its fingerprint is not the pinned one".into()),
            Check::WebPki(inner) => inner
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .or_else(|error| refuse(None, error.to_string())),
        };
        if verdict.is_ok() {
            self.accepted(end_entity, server_name);
        }
        verdict
    }

    // The certificate proves nothing unless the peer holds its key: signatures are checked however it was accepted.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Finds the verifier's refusal in the chain of a failed request.
pub(super) fn refusal<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Refusal> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) = error.downcast_ref() {
            return other.0.downcast_ref();
        }
        // `io::Error` leaves the error that it wraps out of its chain.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_in_every_spelling() {
        let pin = Fingerprint::of(b"x");
        let shown = pin.to_string();
        assert_eq!(shown.len(), 95);
        for spelling in [shown.clone(), shown.to_lowercase(), shown.replace(':', "")] {
            assert_eq!(spelling.parse::<Fingerprint>().unwrap(), pin);
        }
        for bad in ["", "AA", &shown[3..], "zz", &format!("{shown}:A")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_ca_is_named() {
        assert!(
            client_config(&Tls::Ca("nonsense".into()), None)
                .unwrap_err()
                .contains("no PEM certificate")
        );
    }
}
