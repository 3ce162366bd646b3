//! The verbs on a Kubernetes cluster: they change the objects as `kubectl` would, and the operator does the rest.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::crd::{
    GuestKind, PAUSED, PhoenixHypervisor, PhoenixLXC, PhoenixTemplate, PhoenixVM, RECONCILE, RESTARTED_AT, RUN_TESTS,
};
use crate::desired::memory::MemoryObjects;
use crate::desired::{GuestObject, Key, ObjectName};
use crate::standalone::run::{Standing, standing};

use super::super::into::needed;
use super::super::output::Output;
use super::{Verb, bad_input, chosen, is_paused, report, show, sorted, stamp_of_now, test_hashes, tested};

const KINDS: [GuestKind; 3] = [GuestKind::PhoenixLXC, GuestKind::PhoenixVM, GuestKind::PhoenixTemplate];

fn api(client: &Client, kind: GuestKind, namespace: &str) -> Api<DynamicObject> {
    let resource = match kind {
        GuestKind::PhoenixLXC => ApiResource::erase::<PhoenixLXC>(&()),
        GuestKind::PhoenixVM => ApiResource::erase::<PhoenixVM>(&()),
        GuestKind::PhoenixTemplate => ApiResource::erase::<PhoenixTemplate>(&()),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// The object as the engine sees it; `None` for what cannot be read, such as an object of a later version.
fn guest(kind: GuestKind, object: &DynamicObject) -> Option<GuestObject> {
    let object = object.clone();
    match kind {
        GuestKind::PhoenixLXC => Some(GuestObject::from(&object.try_parse::<PhoenixLXC>().ok()?)),
        GuestKind::PhoenixVM => Some(GuestObject::from(&object.try_parse::<PhoenixVM>().ok()?)),
        GuestKind::PhoenixTemplate => Some(GuestObject::from(&object.try_parse::<PhoenixTemplate>().ok()?)),
    }
}

async fn connect(namespace: Option<String>) -> Result<(Client, String), String> {
    let client = Client::try_default()
        .await
        .map_err(|e| format!("no manifests are given (-f or -k), and no cluster can be reached: {e}"))?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_string());
    Ok((client, namespace))
}

async fn objects(client: &Client, namespace: &str) -> Result<Vec<GuestObject>, String> {
    let mut found = Vec::new();
    for kind in KINDS {
        let list = api(client, kind, namespace).list(&ListParams::default()).await;
        let list = list.map_err(|e| format!("cannot list {}: {e}", kind.as_str()))?;
        for object in &list {
            match guest(kind, object) {
                Some(guest) => found.push(guest),
                None => errln!("{} {} cannot be read", kind.as_str(), object.name_any()),
            }
        }
    }
    Ok(sorted(found))
}

/// All guest objects of the namespace, or of the kubeconfig's.
///
/// # Errors
/// A cluster that cannot be reached or read.
pub async fn all(namespace: Option<String>) -> Result<Vec<GuestObject>, String> {
    let (client, namespace) = connect(namespace).await?;
    objects(&client, &namespace).await
}

/// All hypervisors and guest objects of the namespace, or of the kubeconfig's.
///
/// # Errors
/// A cluster that cannot be reached or read.
pub async fn with_hypervisors(namespace: Option<String>) -> Result<(Vec<PhoenixHypervisor>, Vec<GuestObject>), String> {
    let (client, namespace) = connect(namespace).await?;
    let api: Api<PhoenixHypervisor> = Api::namespaced(client.clone(), &namespace);
    let list = api.list(&ListParams::default()).await;
    let list = list.map_err(|e| format!("cannot list PhoenixHypervisor: {e}"))?;
    Ok((list.items, objects(&client, &namespace).await?))
}

/// The same with the Secrets that the hypervisors name. What cannot be read is told, and missing for whoever asks.
///
/// # Errors
/// A cluster that cannot be reached or read.
pub async fn with_secrets(
    namespace: Option<String>,
) -> Result<(Vec<PhoenixHypervisor>, Vec<GuestObject>, MemoryObjects), String> {
    let (client, namespace) = connect(namespace).await?;
    let api: Api<PhoenixHypervisor> = Api::namespaced(client.clone(), &namespace);
    let list = api.list(&ListParams::default()).await;
    let list = list.map_err(|e| format!("cannot list PhoenixHypervisor: {e}"))?;
    let known = MemoryObjects::default();
    let names: BTreeSet<String> = list.items.iter().flat_map(secrets_of).collect();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    for name in &names {
        match secrets.get(name).await {
            Ok(secret) => known.insert_secret(secret),
            Err(error) => {
                let what = format!("Secret {namespace}/{name}");
                errln!("{}", unread(&what, &format!("secrets {name}"), &namespace, &error));
            }
        }
    }
    Ok((list.items, objects(&client, &namespace).await?, known))
}

/// The hypervisor of an object with the Secrets that reaching its guest takes.
///
/// # Errors
/// What cannot be read, in words.
pub async fn hypervisor(object: &GuestObject) -> Result<MemoryObjects, String> {
    let ObjectName { namespace, name } = object.hypervisor_ref();
    let (client, _) = connect(None).await?;
    let api: Api<PhoenixHypervisor> = Api::namespaced(client.clone(), &namespace);
    let whole = api.get(&name).await.map_err(|error| {
        let right = format!("phoenixhypervisors.phoenix-hypervisor.io {name}");
        unread(
            &format!("PhoenixHypervisor {namespace}/{name}"),
            &right,
            &namespace,
            &error,
        )
    })?;
    let found = needed(&whole, object.guest_type());
    let known = MemoryObjects::default();
    let names = secrets_of(&found);
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    for secret in &names {
        let read = secrets.get(secret).await.map_err(|error| {
            let right = format!(
                "secrets {}",
                Vec::from_iter(names.iter().map(String::as_str)).join(", ")
            );
            let what = format!("Secret {namespace}/{secret} of PhoenixHypervisor {name}");
            unread(&what, &right, &namespace, &error)
        })?;
        known.insert_secret(read);
    }
    known.insert_hypervisor(found);
    Ok(known)
}

/// The Secrets that a hypervisor names.
fn secrets_of(hypervisor: &PhoenixHypervisor) -> BTreeSet<String> {
    let spec = &hypervisor.spec;
    let ssh = spec
        .ssh
        .iter()
        .flat_map(|s| [&s.key_secret_ref.name, &s.known_hosts_secret_ref.name]);
    let ca = spec.tls.iter().flat_map(|t| &t.ca_secret_ref).map(|r| &r.name);
    let token = spec.credentials.token_secret_ref.iter().map(|r| &r.name);
    let password = spec.credentials.root_password_secret_ref.iter().map(|r| &r.name);
    ssh.chain(ca).chain(token).chain(password).cloned().collect()
}

/// Why something cannot be read, and the right that is missing where it is one.
fn unread(what: &str, right: &str, namespace: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "you may not read {what}: this reaches the guest from here, with the hypervisor's credentials, and takes the \
             right to get {right} in namespace {namespace}. The cluster says: {}",
            status.message
        ),
        kube::Error::Api(status) if status.code == 404 => format!("{what} does not exist"),
        error => format!("cannot read {what}: {error}"),
    }
}

/// `phoenix status`.
pub async fn status(namespace: Option<String>, words: Vec<String>, output: Output) -> ExitCode {
    match all(namespace).await {
        Ok(objects) => show(&objects, &words, None, output),
        Err(message) => {
            errln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// `phoenix start|stop|restart|reconcile|delete`.
pub async fn act(namespace: Option<String>, words: Vec<String>, verb: Verb, limit: Duration) -> ExitCode {
    let listed = async {
        let (client, namespace) = connect(namespace).await?;
        let objects = objects(&client, &namespace).await?;
        Ok::<_, String>((client, objects))
    };
    let (client, objects) = match listed.await {
        Ok(listed) => listed,
        Err(message) => {
            errln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    let objects = match chosen(&objects, &words, None, Some(verb)) {
        Ok(objects) => objects,
        Err(message) => return bad_input(message),
    };
    let before: Vec<_> = objects.iter().map(test_hashes).collect();
    let keys: Vec<Key> = objects.into_iter().map(|o| o.key).collect();
    let restart = stamp_of_now();
    for key in &keys {
        if let Err(error) = order(&client, key, verb, &restart).await {
            errln!("{key}: {error}");
            return ExitCode::FAILURE;
        }
    }
    let waits = keys.iter().zip(&before);
    let all = futures::future::join_all(waits.map(|(key, before)| until(&client, key, verb, &restart, before)));
    if tokio::time::timeout(limit, all).await.is_err() {
        errln!("it was not so within the time");
    }
    let mut left = Vec::new();
    for key in &keys {
        match api(&client, key.kind, &key.namespace).get_opt(&key.name).await {
            Ok(None) => {}
            Ok(Some(found)) => match guest(key.kind, &found) {
                Some(guest) => left.push(guest),
                None => {
                    errln!("{key} cannot be read");
                    return ExitCode::FAILURE;
                }
            },
            Err(error) => {
                errln!("{key}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    report(verb, &keys, &left)
}

/// Changes the object.
async fn order(client: &Client, key: &Key, verb: Verb, restart: &str) -> kube::Result<()> {
    let api = api(client, key.kind, &key.namespace);
    let patch = match verb {
        Verb::Start => json!({"spec": {"powerState": "Running"}}),
        Verb::Stop => json!({"spec": {"powerState": "Stopped"}}),
        Verb::Restart => json!({"metadata": {"annotations": {RESTARTED_AT: restart}}}),
        Verb::Test => json!({"metadata": {"annotations": {RUN_TESTS: restart}}}),
        Verb::Reconcile => json!({"metadata": {"annotations": {RECONCILE: restart}}}),
        Verb::Pause => json!({"metadata": {"annotations": {PAUSED: "true"}}}),
        Verb::Resume => json!({"metadata": {"annotations": {PAUSED: null}}}),
        Verb::Delete => return api.delete(&key.name, &DeleteParams::default()).await.map(drop),
    };
    let params = PatchParams {
        field_manager: Some("phoenix-cli".into()),
        ..PatchParams::default()
    };
    api.patch(&key.name, &params, &Patch::Merge(patch)).await.map(drop)
}

/// Waits until it is so, or somebody has to do something.
async fn until(client: &Client, key: &Key, verb: Verb, restart: &str, before: &[Option<String>]) {
    let so = |object: Option<&DynamicObject>| {
        let Some(object) = object else { return true };
        let Some(guest) = guest(key.kind, object) else {
            return false;
        };
        match (verb, standing(&guest)) {
            // What it was before the operator heeded the annotation says nothing.
            (Verb::Reconcile, standing) => {
                standing != Standing::Working && guest.status.reconciled.as_deref() == Some(restart)
            }
            (Verb::Pause, _) => is_paused(&guest),
            (Verb::Resume, _) if is_paused(&guest) => false,
            (_, Standing::Stalled) => true,
            (Verb::Delete, _) => false,
            (Verb::Restart, standing) => {
                standing == Standing::Ready && guest.status.restarted_at.as_deref() == Some(restart)
            }
            (Verb::Test, standing) => standing == Standing::Ready && tested(&guest, before),
            (_, standing) => standing == Standing::Ready,
        }
    };
    if let Err(error) = await_condition(api(client, key.kind, &key.namespace), &key.name, so).await {
        errln!("{key}: {error}");
    }
}
