//! The name under which the API server books what the operator writes (`kubectl get --show-managed-fields`).
//!
//! It is put on every request that writes, in one place: also on those that kube sends of its own, such as events.
//! Without it the API server takes the manager from the `User-Agent`, of which there is none (`unknown`).

use http::{Method, Request, Uri};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::util::MapRequestLayer;

/// The operator's name as a manager of fields.
pub const FIELD_MANAGER: &str = "phoenix-operator";

/// A client whose writes carry [`FIELD_MANAGER`].
///
/// # Errors
/// What in the configuration cannot be used.
pub fn client(config: Config) -> kube::Result<Client> {
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&MapRequestLayer::new(named)).build())
}

/// The request with the field manager, where it writes and names none.
fn named(mut request: Request<Body>) -> Request<Body> {
    let writes = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    let query = request.uri().query().unwrap_or_default();
    if !writes || query.split('&').any(|pair| pair.starts_with("fieldManager=")) {
        return request;
    }
    let and = if query.is_empty() { "" } else { "&" };
    let path = format!("{}?{query}{and}fieldManager={FIELD_MANAGER}", request.uri().path());
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = path.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Json;
    use k8s_openapi::api::coordination::v1::Lease;
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::PhoenixHypervisor;
    use crate::desired::{GuestObject, ObjectName};
    use crate::engine::store::{Event, EventType, Store};
    use crate::operator::lease::{KubeLease, LeaseStore};
    use crate::operator::objects::Kind;
    use crate::operator::{KubeStore, Process};

    /// An API server that notes method and address of each request, and answers with what it was sent.
    async fn noting(seen: Arc<Mutex<Vec<(Method, Uri)>>>) -> Config {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = move |method: Method, uri: Uri, body: String| async move {
            let sent: Value = serde_json::from_str(&body).unwrap_or_default();
            let mut object = json!({"metadata": {"name": "x", "namespace": "ai", "resourceVersion": "7"}});
            object
                .as_object_mut()
                .unwrap()
                .extend(sent.as_object().cloned().unwrap_or_default());
            seen.lock().unwrap().push((method, uri));
            Json(object)
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
        Config::new(format!("http://{address}").parse().unwrap())
    }

    #[tokio::test]
    async fn every_write_of_the_operator_names_its_field_manager() {
        let seen = Arc::<Mutex<Vec<(Method, Uri)>>>::default();
        let client = client(noting(seen.clone()).await).unwrap();
        let store = KubeStore::new(Process::new(client.clone()), "phoenix-operator", Arc::default());
        let name = ObjectName::new("ai", "x");
        let api = store.api::<PhoenixHypervisor>("ai");
        let _ = store.patch_finalizers(&api, (Kind::Hypervisor, &name), "7", &[]).await;
        let _ = store.write_status_of::<PhoenixHypervisor>(&name, &json!({})).await;
        let _ = store.bindings.set("ai", true).await;
        let event = |message: &str| Event {
            type_: EventType::Normal,
            reason: "Ready".into(),
            message: message.into(),
        };
        let guest: crate::crd::PhoenixLXC = serde_json::from_value(json!({
            "apiVersion": "phoenix-hypervisor.io/v1alpha1", "kind": "PhoenixLXC",
            "metadata": {"namespace": "ai", "name": "x"}, "spec": {"hypervisorRef": {"name": "pve"}}
        }))
        .unwrap();
        // The second of the same words is a patch of the first.
        for _ in 0..2 {
            store
                .event(&GuestObject::from(&guest), event("it is as the spec says"))
                .await;
        }
        let lease = KubeLease::new(client, "infra", "phoenix-operator");
        let _ = lease.create(&Lease::default()).await;
        let _ = lease.replace(&Lease::default()).await;

        let seen = seen.lock().unwrap();
        let writes: Vec<_> = seen.iter().filter(|(method, _)| method != Method::GET).collect();
        assert_eq!(writes.len(), 7, "{seen:?}");
        for (method, uri) in &writes {
            let query = uri.query().unwrap_or_default();
            assert_eq!(
                query.matches("fieldManager=phoenix-operator").count(),
                1,
                "{method} {uri}"
            );
        }
        let reads = seen.iter().filter(|(method, _)| method == Method::GET);
        assert!(
            reads
                .into_iter()
                .all(|(_, uri)| uri.query().is_none_or(|q| !q.contains("fieldManager")))
        );
    }
}
