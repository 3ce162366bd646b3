//! What Phoenix consists of in a cluster: kinds, rights, the operator and the features that come with it, made from the
//! files of `config/`.

use anyhow::Context;
use serde_json::{Value, json};

use crate::convert::emit;

const OPERATOR: [&str; 3] = [
    include_str!("../config/operator/namespace.yaml"),
    include_str!("../config/rbac/service-account.yaml"),
    include_str!("../config/operator/deployment.yaml"),
];

const ROLES: [&str; 3] = [
    include_str!("../config/rbac/cluster-role.yaml"),
    include_str!("../config/rbac/namespaced-role.yaml"),
    include_str!("../config/rbac/lease-role.yaml"),
];

const IN_ALL_NAMESPACES: &str = include_str!("../config/rbac/all-namespaces/cluster-role-binding.yaml");
const IN_ONE_NAMESPACE: &str = include_str!("../config/rbac/namespace/role-binding.yaml");

/// What exposing guests takes besides, as additions to the role of [`ROLES`].
const EXPOSE_RULES: &str = include_str!("../config/expose/rules.yaml");

/// Names of the files of the features that come with Phoenix, and what is in them.
pub const FEATURES: [(&str, &str); 8] = [
    ("base-setup.yaml", include_str!("../config/features/base-setup.yaml")),
    ("docker.yaml", include_str!("../config/features/docker.yaml")),
    ("llamacpp.yaml", include_str!("../config/features/llamacpp.yaml")),
    ("nvidia.yaml", include_str!("../config/features/nvidia.yaml")),
    ("ollama.yaml", include_str!("../config/features/ollama.yaml")),
    ("portainer.yaml", include_str!("../config/features/portainer.yaml")),
    (
        "python-api-service.yaml",
        include_str!("../config/features/python-api-service.yaml"),
    ),
    ("vllm.yaml", include_str!("../config/features/vllm.yaml")),
];

/// Namespace of the operator in the files of `config/`.
const NAMESPACE: &str = "phoenix-system";

/// What is chosen of an installation.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Namespace of the operator.
    pub namespace: String,
    /// Namespaces that it works for; empty: all.
    pub namespaces: Vec<String>,
    /// Image of the operator.
    pub image: Option<String>,
    /// Whether guests are exposed by Services.
    pub expose: bool,
    /// Processes of the operator.
    pub replicas: u16,
    /// Namespaces that get the features.
    pub features: Vec<String>,
}

impl Choices {
    /// Everything in the order in which it can be applied; the features last, since their kind has to be there.
    ///
    /// # Errors
    /// If a file of the program's own is not what it should be.
    pub fn manifests(&self) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        for crd in crate::crd::all()? {
            all.push(serde_json::to_value(&crd)?);
        }
        let [namespace, account, deployment] = OPERATOR;
        for file in [namespace, account].into_iter().chain(ROLES) {
            let mut objects = self.of(file)?;
            for role in objects
                .iter_mut()
                .filter(|object| self.expose && is_namespaced_role(object))
            {
                let rules = role["rules"].as_array_mut().context("the role has no rules")?;
                let added: Vec<Value> = serde_saphyr::from_str(EXPOSE_RULES)?;
                rules.extend(added.into_iter().map(|mut addition| addition["value"].take()));
            }
            all.extend(objects);
        }
        if self.namespaces.is_empty() {
            all.extend(self.of(IN_ALL_NAMESPACES)?);
        }
        for namespace in &self.namespaces {
            let bindings = self.of(IN_ONE_NAMESPACE)?;
            all.extend(bindings.into_iter().map(|object| within(object, namespace)));
        }
        for mut object in self.of(deployment)? {
            self.choose(&mut object).context("config/operator/deployment.yaml")?;
            all.push(object);
        }
        for namespace in &self.features {
            for (_, file) in FEATURES {
                all.extend(documents(file)?.into_iter().map(|object| within(object, namespace)));
            }
        }
        Ok(all)
    }

    /// The objects of a file, with the operator's namespace in all places where it is named.
    fn of(&self, file: &str) -> anyhow::Result<Vec<Value>> {
        let mut objects = documents(file)?;
        for object in &mut objects {
            let at_home = object["metadata"]["namespace"] == NAMESPACE;
            if at_home {
                object["metadata"]["namespace"] = json!(self.namespace);
            }
            if object["kind"] == "Namespace" {
                object["metadata"]["name"] = json!(self.namespace);
            }
            if let Some(subjects) = object.get_mut("subjects").and_then(Value::as_array_mut) {
                for subject in subjects {
                    subject["namespace"] = json!(self.namespace);
                }
            }
        }
        Ok(objects)
    }

    fn choose(&self, deployment: &mut Value) -> anyhow::Result<()> {
        deployment["spec"]["replicas"] = json!(self.replicas);
        let container = deployment
            .pointer_mut("/spec/template/spec/containers/0")
            .context("it has no container")?;
        if let Some(image) = &self.image {
            container["image"] = json!(image);
        }
        if self.expose {
            let args = container["args"].as_array_mut().context("it has no arguments")?;
            args.push(json!("--expose"));
        }
        let mut env = container["env"].as_array_mut().into_iter().flatten();
        let namespaces = env
            .find(|variable| variable["name"] == "PHOENIX_NAMESPACES")
            .context("it does not say which namespaces the operator works for")?;
        namespaces["value"] = json!(self.namespaces.join(","));
        Ok(())
    }
}

/// Whether it is what the operator may do in the namespaces that it works for.
fn is_namespaced_role(object: &Value) -> bool {
    object["kind"] == "ClusterRole" && object["metadata"]["name"] == "phoenix-operator-namespaced"
}

fn within(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

fn documents(file: &str) -> anyhow::Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(file)?)
}

/// An object as a YAML document, below a comment that names it.
///
/// # Errors
/// If it cannot be written as YAML or JSON.
pub fn document(object: &Value) -> anyhow::Result<String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Ok(format!(
        "---\n{}",
        emit::text(object, object, &format!("{kind} {name}"))?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices() -> Choices {
        Choices {
            namespace: "phoenix-system".into(),
            namespaces: vec![],
            image: None,
            expose: false,
            replicas: 1,
            features: vec![],
        }
    }

    fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
        all.iter().filter(|object| object["kind"] == kind).collect()
    }

    #[test]
    fn all_namespaces_by_one_binding_and_single_ones_by_one_each() {
        let all = choices().manifests().unwrap();
        assert_eq!(of_kind(&all, "ClusterRoleBinding").len(), 2);
        assert_eq!(of_kind(&all, "RoleBinding").len(), 1, "only that of the Lease");
        let some = Choices {
            namespaces: vec!["ai".into(), "lab".into()],
            ..choices()
        };
        let some = some.manifests().unwrap();
        assert_eq!(of_kind(&some, "ClusterRoleBinding").len(), 1);
        let bound: Vec<_> = of_kind(&some, "RoleBinding")
            .iter()
            .map(|binding| binding["metadata"]["namespace"].as_str().unwrap())
            .collect();
        assert_eq!(bound, ["phoenix-system", "ai", "lab"]);
    }

    #[test]
    fn the_operators_namespace_is_named_everywhere() {
        let elsewhere = Choices {
            namespace: "infra".into(),
            namespaces: vec!["ai".into()],
            image: Some("mirror/phoenix:1".into()),
            expose: true,
            replicas: 2,
            features: vec!["ai".into()],
        };
        let all = elsewhere.manifests().unwrap();
        let crds = of_kind(&all, "CustomResourceDefinition").len();
        assert_eq!(crds, 5);
        for object in &all[crds..] {
            assert!(!document(object).unwrap().contains("phoenix-system"), "{object:#}");
        }
        let deployment = of_kind(&all, "Deployment")[0];
        assert!(deployment.get("subjects").is_none());
        assert_eq!(deployment["spec"]["replicas"], 2);
        assert_eq!(
            deployment["spec"]["template"]["spec"]["containers"][0]["image"],
            "mirror/phoenix:1"
        );
        let grants = |all: &[Value]| {
            let roles = of_kind(all, "ClusterRole");
            let named = roles.into_iter().filter(|role| is_namespaced_role(role));
            named.map(|role| role["rules"].to_string()).collect::<String>()
        };
        assert!(grants(&all).contains("endpointslices") && grants(&all).contains("services"));
        assert!(
            !grants(&choices().manifests().unwrap()).contains("services"),
            "only when asked"
        );
        let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
        assert!(args.contains("--expose"), "{args}");
        let features = of_kind(&all, "PhoenixFeature");
        assert_eq!(features.len(), FEATURES.len());
        assert!(features.iter().all(|f| f["metadata"]["namespace"] == "ai"));
        assert_eq!(all.last().unwrap()["kind"], "PhoenixFeature");
    }
}
