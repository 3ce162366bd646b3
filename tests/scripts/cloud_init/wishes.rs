//! What machines ask of their first boot, and what must have arrived of it in cloud-init.

use phoenix::pve::Vmid;
use std::collections::BTreeMap;

use phoenix::admission::{Admission, read_manifests};
use phoenix::convert::{Input, Options, Role, convert};
use phoenix::crd::GuestKind;
use phoenix::desired::vm::vendor_data::{FirstBoot, vendor_data};
use phoenix::desired::{self, Key, MemoryObjects, Objects, Script};
use phoenix::remote::runner::{self, GuestFile, Layout};
use serde_json::{Value, json};

use super::repository;

/// A [`FirstBoot`] that owns what it holds.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub packages: Vec<String>,
    pub user_data: Option<String>,
    pub agent: bool,
    pub programs: Vec<String>,
}

impl Wish {
    /// The vendor-data, if there is any.
    pub fn render(&self) -> Option<String> {
        let wish = FirstBoot {
            packages: &self.packages,
            user_data: self.user_data.as_deref(),
            agent: self.agent,
            programs: &self.programs,
        };
        vendor_data(&wish).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// Compares what cloud-init made of the vendor-data with what was wanted.
    pub fn arrived(&self, name: &str, answer: &Value) {
        let parts = answer["parts"].as_array().unwrap();
        if let Some(user_data) = &self.user_data {
            // cloud-init ends a last line that is not ended when it takes an archive apart.
            let got = parts[0]["text"].as_str().unwrap();
            assert_eq!(got.trim_end_matches('\n'), user_data.trim_end_matches('\n'), "{name}");
        }
        let own: Value = match self.user_data.as_deref() {
            Some(text) if text.starts_with("#cloud-config") => serde_saphyr::from_str(text).unwrap(),
            _ => json!({}),
        };
        let merged = &answer["merged"];
        let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        for (key, value) in own.as_object().into_iter().flatten() {
            // Lists are appended to, nothing else is touched.
            let kept = match value {
                Value::Array(items) => list(merged, key).starts_with(items),
                other => merged[key] == *other,
            };
            assert!(kept, "{name}: {key}: {value} became {}", merged[key]);
        }
        let mut packages = list(&own, "packages");
        packages.extend(self.packages.iter().map(|p| json!(p)));
        packages.extend(self.agent.then(|| json!("qemu-guest-agent")));
        assert_eq!(list(merged, "packages"), packages, "{name}");
        let files = list(merged, "write_files");
        for (n, program) in self.programs.iter().enumerate() {
            let path = format!("/var/lib/phoenix/first-boot/{:02}.sh", n + 1);
            let file = files.iter().find(|f| f["path"] == path.as_str());
            assert_eq!(file.unwrap()["content"], program.as_str(), "{name}: {path}");
        }
        let commands = usize::from(self.agent) + usize::from(!self.programs.is_empty());
        assert_eq!(
            list(merged, "runcmd").len(),
            list(&own, "runcmd").len() + commands,
            "{name}"
        );
    }
}

/// The program that starts a script in the machine, as the engine makes it.
pub fn program(script: &Script) -> String {
    let script = runner::Script {
        id: script.id.clone(),
        hash: script.hash.clone(),
        attempt: 1,
        body: script.body.clone(),
        path: None,
        args: script.args.clone(),
        environment: (script.environment.iter())
            .map(|(k, v)| (k.clone(), v.as_str().into()))
            .collect(),
        files: (script.files.iter())
            .map(|f| GuestFile {
                path: f.path.clone(),
                mode: f.mode.clone(),
                content: f.content.clone().into_bytes(),
            })
            .collect(),
        workdir: script.workdir.clone(),
        deadline_seconds: u64::try_from(script.deadline_seconds).ok(),
        keep_output: true,
        run_as: None,
    };
    let command = runner::start(Vmid::nearest(0), &script, &Layout::default()).unwrap();
    String::from_utf8(command.stdin.to_vec()).unwrap()
}

/// Objects of YAML texts, checked by admission.
pub fn objects<'t>(texts: impl IntoIterator<Item = &'t str>) -> (MemoryObjects, Vec<Key>) {
    fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).unwrap()
    }
    let admission = Admission::new().unwrap();
    let objects = MemoryObjects::new();
    let mut machines = Vec::new();
    for manifest in texts.into_iter().flat_map(|text| read_manifests(text, "text").unwrap()) {
        // What stands around guests, such as an Ingress, is of other groups.
        let group = manifest.value["apiVersion"].as_str().unwrap();
        if group.contains('/') && !group.starts_with("phoenix-hypervisor.io/") {
            continue;
        }
        let value = admission
            .check(&manifest.value, None)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let text = |field: &str| value["metadata"][field].as_str().unwrap().to_owned();
        let key = |kind| Key::new(kind, &text("namespace"), &text("name"));
        match value["kind"].as_str().unwrap() {
            "PhoenixVM" => machines.push(key(GuestKind::PhoenixVM)),
            "PhoenixTemplate" if value["spec"]["vm"].is_object() => machines.push(key(GuestKind::PhoenixTemplate)),
            _ => {}
        }
        match value["kind"].as_str().unwrap() {
            "PhoenixLXC" => objects.insert_lxc(&read(value)),
            "PhoenixVM" => objects.insert_vm(&read(value)),
            "PhoenixTemplate" => objects.insert_template(&read(value)),
            "PhoenixHypervisor" => objects.insert_hypervisor(read(value)),
            "PhoenixFeature" => objects.insert_feature(read(value)),
            "Secret" => objects.insert_secret(read(value)),
            "ConfigMap" => objects.insert_config_map(read(value)),
            kind => panic!("no kind {kind}"),
        }
    }
    (objects, machines)
}

/// What a machine asks of its first boot.
pub fn of(key: &Key, objects: &MemoryObjects) -> Wish {
    let guest = objects.guest(key).unwrap();
    let desired = desired::resolve(&guest, objects, "test").unwrap_or_else(|e| panic!("{key:?}: {e:?}"));
    let init = desired.vm().and_then(|vm| vm.cloud_init.clone());
    let Some(vendor) = init.and_then(|init| init.vendor) else {
        return Wish::default();
    };
    Wish {
        packages: vendor.packages,
        user_data: vendor.user_data,
        agent: vendor.agent,
        programs: vendor.scripts.iter().map(program).collect(),
    }
}

/// What the machines of the shipped examples ask.
pub fn of_examples() -> BTreeMap<String, Wish> {
    let mut texts = Vec::new();
    for folder in ["examples", "config/features"] {
        for entry in std::fs::read_dir(repository(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "yaml") {
                // Features are of no namespace until they are applied.
                let text = std::fs::read_to_string(path).unwrap();
                texts.push(text.replace(
                    "kind: PhoenixFeature\nmetadata:\n",
                    "kind: PhoenixFeature\nmetadata:\n  namespace: phoenix\n",
                ));
            }
        }
    }
    // What examples/vm.yaml says to make.
    texts.push(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: ubuntu-login, namespace: phoenix}\nstringData: {authorizedKeys: ssh-ed25519 AAAA me@desk}\n"
            .to_owned(),
    );
    let (objects, machines) = objects(texts.iter().map(String::as_str));
    machines
        .iter()
        .map(|key| (key.name.clone(), of(key, &objects)))
        .collect()
}

/// What a machine of a legacy VM file asks.
pub fn of_converted(vms: &Value, name: &str) -> Wish {
    let input = Input {
        file: "vms.json".into(),
        bytes: vms.to_string().into_bytes(),
        role: Role::Vm,
    };
    let options = Options {
        namespace: Some("phoenix".into()),
        hypervisor_name: "pve".into(),
        applications: None,
        linked_clones: false,
        copy_secrets: false,
        routing: phoenix::convert::Routing::None,
    };
    let output = convert(&[input], &options).unwrap();
    let hypervisor = std::fs::read_to_string(repository("examples/hypervisor.yaml")).unwrap();
    let machine = &output.files[&format!("phoenixvm-{name}.yaml")];
    let (objects, machines) = objects([hypervisor.as_str(), machine.as_str()]);
    of(&machines[0], &objects)
}
