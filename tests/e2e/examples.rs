//! The examples of the repository, applied as they are (but for their namespace) against the simulator.

use serde_json::{Value, json};

use crate::gitops::is_in_sync;
use crate::guests::option;
use crate::harness::{repository, wait_for};
use crate::site::Site;

/// Applies an example; its text, as it was applied.
pub fn example(site: &Site, path: &std::path::Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("phoenix"), "{}", path.display());
    let place = |t: &str| t.replace("namespace: phoenix\n", &format!("namespace: {}\n", site.namespace.name));
    let text = place(&text).replace(
        r#""namespace": "phoenix""#,
        &format!(r#""namespace": "{}""#, site.namespace.name),
    );
    site.namespace.kubectl.apply(&text);
    text
}

#[test]
fn a_new_users_first_objects_get_ready() {
    let mut site = Site::new("examples");
    site.features();
    // Written by the simulator: what examples/hypervisor.yaml becomes once it is filled in.
    example(&site, &site.dir.join("sim/hypervisor.yaml"));
    let names = ["minimal", "docker", "qwen"].iter();
    let applied = names.map(|name| example(&site, &repository(&format!("examples/{name}.yaml"))));
    let applied: Vec<String> = applied.collect();
    site.start_operator();
    site.wait_ready("phoenixhypervisor/pve", 60);
    for object in [
        "phoenixlxc/hello",
        "phoenixlxc/docker",
        "phoenixtemplate/vllm",
        "phoenixlxc/qwen",
    ] {
        site.wait_ready(object, 180);
    }
    applied.iter().for_each(|manifests| is_in_sync(&site, manifests));
    let vmid = site.status("phoenixlxc/qwen")["vmid"].to_string();
    let options = site.guests()[&vmid]["config"].to_string();
    for words in ["/dev/nvidia0,mode=0666", "mp=/models", "onboot"] {
        assert!(options.contains(words), "no {words} in {options}");
    }
    let table = site.namespace.kubectl.must(&["get", "phoenixlxc", "-o", "wide"]);
    let row = table.lines().find(|l| l.starts_with("qwen")).unwrap();
    assert!(
        row.contains("Ready") && row.contains(&vmid) && row.contains("10.0.0.150"),
        "{table}"
    );
    // What is retained outlives the container.
    site.namespace
        .kubectl
        .must(&["delete", "phoenixlxc/qwen", "--timeout=90s"]);
    wait_for("the volume alone", || {
        let guests = site.guests();
        let kept = guests.values().any(|g| g.to_string().contains("/qwen/models"));
        (kept && !guests.contains_key(&vmid))
            .then_some(())
            .ok_or_else(|| format!("{guests:#?}"))
    });
}

/// The cloud image that the examples download is where they say, with the checksum that they give.
pub fn publish_cloud_image(site: &Site) {
    let text = std::fs::read_to_string(repository("examples/vm.yaml")).unwrap();
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key} in examples/vm.yaml"))
            .trim()
            .to_string()
    };
    let (url, sha256) = (value("url:"), value("sha256:"));
    let file = json!({"size": 628_326_912, "virtual_size": 3_758_096_384_u64, "sums": {"sha256": sha256}, "os": null});
    site.control("POST", "edits", &json!({"op": "remote-file", "url": url, "file": file}));
}

/// What examples/gpu-vm.yaml asks for: a resource mapping and an image that was uploaded.
fn map_gpu(site: &Site) {
    let description = site.description();
    let map = format!(
        "node={},path=0000:41:00.0,id=10de:2d04",
        description["node"].as_str().unwrap()
    );
    site.as_root("POST", "/cluster/mapping/pci", &json!({"id": "gpu", "map": [map]}));
}

#[test]
fn the_virtual_machines_get_ready() {
    let mut site = Site::new("examples-vm");
    site.features();
    publish_cloud_image(&site);
    map_gpu(&site);
    example(&site, &site.dir.join("sim/hypervisor.yaml"));
    let login = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ubuntu-login"},
        "stringData": {"authorizedKeys": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmC3Y0nqfXzOBnG0vPZQqYcVJq0yRr7mCqHn0yS4k5b me@desk\n"}});
    site.namespace.kubectl.apply(&login.to_string());
    let names = ["vm", "docker-vm", "gpu-vm"].iter();
    let applied = names.map(|name| example(&site, &repository(&format!("examples/{name}.yaml"))));
    let applied: Vec<String> = applied.collect();
    // The node's own driver has the card: its owner says that the machine may take it.
    let lets = "phoenix-hypervisor.io/gpu-driver=phoenix/0000:41:00.0=vfio,phoenix/0000:61:00.0=vfio";
    site.namespace
        .kubectl
        .must(&["annotate", "phoenixhypervisor", "pve", lets]);
    site.start_operator();
    site.wait_ready("phoenixhypervisor/pve", 60);
    for object in [
        "phoenixvm/ubuntu",
        "phoenixtemplate/ubuntu-base",
        "phoenixvm/docker-vm",
        "phoenixvm/gpu",
    ] {
        site.wait_ready(object, 180);
    }
    applied.iter().for_each(|manifests| is_in_sync(&site, manifests));
    let vmid = |object: &str| site.status(object)["vmid"].to_string();
    let holds = |object: &str, key: &str, words: &str| {
        let value = option(&site, &vmid(object), key).unwrap_or_default();
        assert!(value.contains(words), "{object}: no {words:?} in {key}: {value:?}");
    };
    holds("phoenixvm/ubuntu", "scsi0", "serial=root,size=32G");
    holds("phoenixvm/ubuntu", "scsi1", "serial=data,size=64G");
    holds("phoenixvm/ubuntu", "ipconfig0", "ip=10.0.0.160/24");
    holds("phoenixvm/ubuntu", "sshkeys", "ssh-ed25519");
    holds("phoenixvm/ubuntu", "cicustom", "vendor=local:snippets/phoenix-");
    holds("phoenixtemplate/ubuntu-base", "template", "1");
    // A linked clone of the template's disk, grown.
    let base = format!("base-{}-disk", vmid("phoenixtemplate/ubuntu-base"));
    holds("phoenixvm/docker-vm", "scsi0", &base);
    holds("phoenixvm/docker-vm", "scsi0", "size=64G");
    holds("phoenixvm/docker-vm", "ipconfig0", "ip=10.0.0.161/24");
    holds("phoenixvm/gpu", "hostpci0", "mapping=gpu");
    holds("phoenixvm/gpu", "efidisk0", "pre-enrolled-keys=0");
    assert_eq!(site.status("phoenixvm/docker-vm")["health"], "Healthy");
    assert_eq!(site.status("phoenixvm/gpu")["gpus"], "gpu");
    let table = site.namespace.kubectl.must(&["get", "phoenixvm", "-o", "wide"]);
    let row = table.lines().find(|l| l.starts_with("docker-vm")).unwrap();
    assert!(
        row.contains("Ready") && row.contains("ubuntu-base") && row.contains("10.0.0.161"),
        "{table}"
    );
    // One download serves the machine and the template.
    let requests = site.control("GET", "requests", &Value::Null);
    let download = |r: &&Value| r["method"] == "POST" && r["path"].as_str().unwrap().ends_with("/download-url");
    assert_eq!(requests.as_array().unwrap().iter().filter(download).count(), 1);
}
