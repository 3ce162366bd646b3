//! The examples of the repository, applied as they are (but for their namespace) against the simulator.

use crate::harness::repository;
use crate::harness::wait_for;
use crate::site::Site;

fn example(site: &Site, path: &std::path::Path) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("phoenix"), "{}", path.display());
    let place = |t: &str| t.replace("namespace: phoenix\n", &format!("namespace: {}\n", site.namespace.name));
    let text = place(&text).replace(
        r#""namespace": "phoenix""#,
        &format!(r#""namespace": "{}""#, site.namespace.name),
    );
    site.namespace.kubectl.apply(&text);
}

#[test]
fn a_new_users_first_objects_get_ready() {
    let mut site = Site::new("examples");
    site.features();
    // Written by the simulator: what examples/hypervisor.yaml becomes once it is filled in.
    example(&site, &site.dir.join("sim/hypervisor.yaml"));
    for name in ["minimal", "docker", "qwen"] {
        example(&site, &repository(&format!("examples/{name}.yaml")));
    }
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
