//! What a proxy of the cluster serves by host name: an Ingress or HTTPRoute for each guest that has a `traefik_service`.

use serde_json::{Value, json};

use crate::crd::Expose;

use super::json::At;
use super::values;

/// What is written beside the manifests for host names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Routing {
    /// Nothing.
    #[default]
    None,
    /// An Ingress each, of class traefik.
    Ingress,
    /// An HTTPRoute each, of the Gateway that k3s' Traefik makes.
    Gateway,
}

impl Routing {
    /// The kind of the objects.
    pub fn kind(self) -> &'static str {
        match self {
            Routing::None => "",
            Routing::Ingress => "Ingress",
            Routing::Gateway => "HTTPRoute",
        }
    }

    /// Path of the host name in them.
    pub fn host_path(self) -> &'static str {
        match self {
            Routing::Gateway => "spec.hostnames[0]",
            _ => "spec.rules[0].host",
        }
    }

    /// The object that leads a host name to a Service.
    pub fn manifest(self, service: &str, host: &str, port: &Expose, namespace: Option<&str>) -> Value {
        let mut metadata = json!({"name": service});
        if let Some(namespace) = namespace {
            metadata["namespace"] = json!(namespace);
        }
        if self == Routing::Gateway {
            return json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata,
                "spec": {
                    "parentRefs": [{"name": "traefik-gateway", "namespace": "kube-system"}],
                    "hostnames": [host],
                    "rules": [{"backendRefs": [{"name": service, "port": port.port}]}],
                },
            });
        }
        metadata["annotations"] = json!({"traefik.ingress.kubernetes.io/router.entrypoints": "websecure"});
        // Traefik speaks HTTPS to a port of that name.
        let backend = json!({"service": {"name": service, "port": {"name": port.name}}});
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata,
            "spec": {
                "ingressClassName": "traefik",
                "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
            },
        })
    }
}

/// The host name of a guest: the name of its `traefik_service` below the fleet's domain, with where both stand.
pub fn host<'a>(guest: &At<'a>, roots: &[At<'a>]) -> Option<(String, [At<'a>; 2])> {
    let name = guest.get("traefik_service")?.get("name")?;
    let domain = roots.iter().find_map(|root| root.get("domain_name"))?;
    let host = format!("{}.{}", values::text(name.node)?, values::text(domain.node)?);
    let host = values::hostname(&host.to_ascii_lowercase()).filter(|host| host.len() <= 253)?;
    Some((host, [name, domain]))
}
