//! `phoenix install`: prints what Phoenix consists of in a cluster, or applies it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::Value;

use crate::install::{Choices, document};

/// Who owns what `--apply` writes.
const FIELD_MANAGER: &str = "phoenix-install";

/// Arguments of `phoenix install`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Namespace that the operator runs in
    #[arg(long, short = 'n', value_name = "NS", default_value = "phoenix-system")]
    namespace: String,
    /// Namespaces that it works for; each must exist. Without, all of them, by a ClusterRoleBinding
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// Image of the operator
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Let the operator make Services for guests (expose of PhoenixLXC and PhoenixVM), and give it the rights for that
    #[arg(long)]
    expose: bool,
    /// Processes of the operator; all but one wait for the one that leads to stop
    #[arg(long, value_name = "N", default_value = "1")]
    replicas: u16,
    /// Namespaces that get the features that come with Phoenix, or none [default: those of --namespaces, or that of the
    /// operator]
    #[arg(long, value_name = "NS", value_delimiter = ',')]
    features: Vec<String>,
    /// Apply it to the cluster of KUBECONFIG instead of printing it
    #[arg(long)]
    apply: bool,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        match self.work() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                errln!("phoenix install: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn work(self) -> anyhow::Result<()> {
        let features = match self.features.as_slice() {
            [none] if none == "none" => vec![],
            [] if self.namespaces.is_empty() => vec![self.namespace.clone()],
            [] => self.namespaces.clone(),
            given => given.to_vec(),
        };
        let choices = Choices {
            namespace: self.namespace,
            namespaces: self.namespaces,
            image: self.image,
            expose: self.expose,
            replicas: self.replicas,
            features,
        };
        let objects = choices.manifests()?;
        if self.apply {
            let runtime = tokio::runtime::Runtime::new()?;
            return runtime.block_on(apply(&objects));
        }
        for object in &objects {
            out!("{}", document(object)?);
        }
        if !choices.features.is_empty() {
            errln!(
                "phoenix install: kubectl knows the kind of the features only once the first run has installed it: where it \
                 says 'no matches for kind \"PhoenixFeature\"', run the command once more, or use --apply"
            );
        }
        Ok(())
    }
}

async fn apply(objects: &[Value]) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no cluster can be reached")?;
    for object in objects {
        let named = apply_one(&client, object).await?;
        outln!("{named} applied");
    }
    Ok(())
}

/// Applies one object; what it is called.
async fn apply_one(client: &Client, object: &Value) -> anyhow::Result<String> {
    let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (version, kind, name) = (word("/apiVersion"), word("/kind"), word("/metadata/name"));
    let named = match word("/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    };
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match word("/metadata/namespace") {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    // What somebody else has changed of an earlier installation is his no longer: as `kubectl apply --force-conflicts`.
    let how = PatchParams::apply(FIELD_MANAGER).force();
    // A new kind is served some moments after its definition is there.
    for _ in 0..30 {
        match api.patch(name, &how, &Patch::Apply(object)).await {
            Ok(_) => return Ok(named),
            Err(kube::Error::Api(status)) if status.code == 404 && kind == "PhoenixFeature" => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot apply {named}")),
        }
    }
    bail!("cannot apply {named}: the API server does not serve its kind, or the namespace does not exist")
}
