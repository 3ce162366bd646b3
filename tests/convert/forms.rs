//! Odd forms of the legacy files, one by one.

use phoenix::convert::Role;
use phoenix::convert::report::{Outcome, Severity};
use serde_json::{Value, json};

use crate::support::*;

#[test]
fn gpu_assignment() {
    let none = json!([]);
    let gpus = |indices: &[i64]| Value::Array(indices.iter().map(|i| json!({ "index": i })).collect());
    let cases = [
        (json!("none"), none.clone()),
        (json!("None"), none.clone()),
        (json!(""), none.clone()),
        (json!("  "), none.clone()),
        (json!(null), none.clone()),
        (json!(false), none.clone()),
        (json!([]), none.clone()),
        (json!(0), gpus(&[0])),
        (json!(1.0), gpus(&[1])),
        (json!("1"), gpus(&[1])),
        (json!("0,1"), gpus(&[0, 1])),
        (json!("0, 1"), gpus(&[0, 1])),
        (json!(" 1 ,0 "), gpus(&[1, 0])),
        (json!([0, 1]), gpus(&[0, 1])),
        (json!(["0", "1"]), gpus(&[0, 1])),
        (json!("0,0"), gpus(&[0])),
    ];
    for (given, wanted) in cases {
        let output = container(json!({ "gpu_assignment": given }));
        assert_eq!(spec(&output)["gpus"], wanted, "{given}");
        assert_eq!(output.report.count(Severity::Error), 0);
    }
    for bad in [
        json!("all"),
        json!("0,x"),
        json!("0,,1"),
        json!(-1),
        json!(0.5),
        json!(64),
        json!({"a": 0}),
        json!(true),
        json!([[0]]),
    ] {
        let output = container(json!({ "gpu_assignment": bad }));
        assert_eq!(spec(&output).get("gpus"), None, "{bad}");
        let found = finding(&output, Severity::Warning, "names no GPU indices");
        assert!(
            found.message.starts_with("container 950: gpu_assignment "),
            "{}",
            found.message
        );
        assert!(found.fix.contains("none"));
    }
    assert_eq!(spec(&container(json!({}))).get("gpus"), None, "absent is unmanaged");
}

#[test]
fn numbers_in_other_types() {
    let output =
        container(json!({"cores": "4", "memory_mb": "2048", "swap_mb": 0, "storage_size_gb": 32.0, "boot_order": "3"}));
    let spec = spec(&output);
    assert_eq!(spec["cores"], 4);
    assert_eq!((&spec["memory"], &spec["swap"]), (&json!("2Gi"), &json!("0")));
    assert_eq!(spec["rootfs"]["size"], "32Gi");
    assert_eq!(spec["boot"]["order"], 3);
    for (key, bad) in [
        ("cores", json!("many")),
        ("cores", json!(0)),
        ("cores", json!(2.5)),
        ("cores", json!([4])),
        ("memory_mb", json!("lots")),
        ("memory_mb", json!(-5)),
        ("memory_mb", json!(1e300)),
        ("storage_size_gb", json!({})),
        ("storage_size_gb", json!(0)),
        ("storage_size_gb", json!("1K")),
        ("unprivileged", json!("perhaps")),
        ("mac_address", json!("52:54:00:AA:BB")),
    ] {
        let output = container(json!({key: bad, "network_config": "dhcp"}));
        assert_eq!(
            findings(&output, Severity::Warning)
                .iter()
                .filter(|f| f.message.contains(key))
                .count(),
            1,
            "{key} {bad}"
        );
        let start = format!("/lxc_configs/950/{key}");
        let mut entries = output
            .report
            .entries
            .iter()
            .filter(|e| e.pointer.starts_with(&start))
            .peekable();
        assert!(
            entries.peek().is_some() && entries.all(|e| e.outcome == Outcome::NotMapped),
            "{key} {bad}"
        );
    }
}

#[test]
fn numbers_beyond_every_type_are_read() {
    let text = r#"{"lxc_configs": {"950": {"name": "one", "template": "local:vztmpl/d.tar.zst", "cores": 123456789012345678901234567890, "odd": -1e400}}}"#;
    let options = options();
    let output = phoenix::convert::convert(&[input("lxc.json", Role::Lxc, text)], &options).unwrap();
    assert_eq!(of(&output, "cores").outcome, Outcome::NotMapped);
    assert_eq!(
        of(&output, "odd").note,
        "unknown key: the converter does not know what it means"
    );
}

#[test]
fn names() {
    let names = |list: &[&str]| -> Vec<String> {
        let configs: serde_json::Map<String, Value> = (list.iter().enumerate())
            .map(|(n, name)| ((200 + n).to_string(), plain(json!({ "name": name }))))
            .collect();
        let output = containers(Value::Object(configs));
        assert_eq!(output.report.count(Severity::Error), 0);
        let files = output.files.keys().filter_map(|f| f.strip_prefix("phoenixlxc-"));
        let mut names: Vec<_> = files.map(|f| f.trim_end_matches(".yaml").to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&["Template-Base"]), ["template-base"]);
    assert_eq!(names(&["vllm-qwen2.5-7b"]), ["vllm-qwen2.5-7b"]);
    assert_eq!(names(&["My Server_1!"]), ["my-server-1"]);
    assert_eq!(names(&["..a..-b-"]), ["a.b"]);
    assert_eq!(names(&["§§"]), ["lxc-200"]);
    assert_eq!(names(&["web", "WEB", "web"]), ["web", "web-201", "web-202"]);
    assert_eq!(names(&["web-201", "web", "web"]), ["web", "web-201", "web-202"]);
    assert_eq!(names(&[&"x".repeat(300)])[0].len(), 63);

    let output = containers(json!({"200": plain(json!({"name": "Nginx-VscodeRag"}))}));
    let found = finding(&output, Severity::Info, "became the object name");
    assert_eq!(found.pointer, "/lxc_configs/200/name");
    assert_eq!(
        manifest(&output, "phoenixlxc-nginx-vscoderag.yaml")["spec"]["hostname"],
        "Nginx-VscodeRag"
    );
    let output = containers(json!({"200": {"template": "local:vztmpl/d.tar.zst", "name": null}}));
    assert!(output.files.contains_key("phoenixlxc-lxc-200.yaml"));
    finding(&output, Severity::Info, "it has no name");
}

#[test]
fn network_config() {
    let nic = |config: Value| spec(&container(json!({ "network_config": config })))["network"].clone();
    let full = json!([{"name": "eth0", "ip": "10.0.0.110/24", "gateway": "10.0.0.1"}]);
    assert_eq!(nic(json!({"ip": "10.0.0.110/24", "gw": "10.0.0.1"})), full);
    assert_eq!(nic(json!("10.0.0.110/24,10.0.0.1")), full);
    assert_eq!(nic(json!("name=eth0,ip=10.0.0.110/24,gw=10.0.0.1")), full);
    assert_eq!(nic(json!("dhcp")), json!([{"name": "eth0", "ip": "dhcp"}]));
    assert_eq!(
        nic(json!({"ip": "DHCP", "bridge": "vmbr1", "vlan": "20"})),
        json!([{"name": "eth0", "bridge": "vmbr1", "vlan": 20, "ip": "dhcp"}])
    );
    assert_eq!(
        nic(json!([{"ip": "dhcp"}, {"ip": "10.1.0.2/16"}])),
        json!([{"name": "eth0", "ip": "dhcp"}, {"name": "eth1", "ip": "10.1.0.2/16"}])
    );

    let output =
        container(json!({"network_config": "10.0.0.110/24,10.0.0.1,8.8.8.8", "mac_address": "52-54-00-aa-bb-cc"}));
    assert_eq!(spec(&output)["dns"]["nameservers"], json!(["8.8.8.8"]));
    assert_eq!(spec(&output)["network"][0]["mac"], "52:54:00:aa:bb:cc");
    let target = of(&output, "network_config").target.clone().unwrap();
    assert!(
        target.contains("spec.network[0].gateway") && target.contains("spec.dns.nameservers[0]"),
        "{target}"
    );

    for (config, words) in [
        (
            json!({"ip": "10.0.0.300/24"}),
            "is not an IPv4 address with prefix length",
        ),
        (json!({"ip": "10.0.0.3"}), "is not an IPv4 address with prefix length"),
        (
            json!({"ip": "10.0.0.3/24", "gw": "10.9.0.1"}),
            "gateway 10.9.0.1 is not in the network",
        ),
        (json!({"ip": "dhcp", "gw": "10.9.0.1"}), "without a static address"),
        (json!({"bridge": "bad bridge"}), "is not a bridge name"),
        (json!(42), "is not an object with ip and gw"),
        (json!([{"name": "a"}, {"name": "a"}]), "interface a is there already"),
    ] {
        finding(
            &container(json!({ "network_config": config })),
            Severity::Warning,
            words,
        );
    }
}

#[test]
fn an_address_without_prefix_takes_that_of_the_subnet() {
    let hypervisor =
        json!({"network": {"default_subnet": "10.0.0.0/16", "interfaces": {"address": "10.0.0.13/24"}}}).to_string();
    let lxc = json!({"lxc_configs": {"950": plain(json!({"network_config": {"ip": "10.0.7.3"}}))}}).to_string();
    let output = run(
        &[
            input("h.json", Role::Hypervisor, hypervisor),
            input("lxc.json", Role::Lxc, lxc),
        ],
        &options(),
    );
    assert_eq!(spec(&output)["network"][0]["ip"], "10.0.7.3/16");
}

#[test]
fn options_of_containers() {
    let output = container(json!({
        "pct_options": ["nesting=1", "keyctl=0", "--features mknod=1", "mount=nfs;cifs", "force_rw_sys=1", 7],
        "lxc_options": [
            "lxc.apparmor.profile=unconfined", "lxc.cgroup2.devices.allow=a", "lxc.cgroup2.devices.allow = a",
            "lxc.mount.entry=/dev/fuse dev/fuse none bind,create=file", "lxc.idmap=u 0 100000 65536", "nonsense",
            "lxc.cap.drop:", "lxc.cap.keep=sys_admin,mknod", "lxc.sysctl.vm.max_map_count=1"
        ],
        "apparmor_profile": "unconfined"
    }));
    let spec = spec(&output);
    assert_eq!(
        spec["capabilities"],
        json!({"nesting": true, "keyctl": false, "mknod": true, "mount": ["nfs", "cifs"]})
    );
    assert_eq!(spec["apparmorProfile"], "unconfined");
    assert_eq!(
        spec["lxcOptions"],
        json!([
            "lxc.cgroup2.devices.allow = a",
            "lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file",
            "lxc.idmap = u 0 100000 65536",
            "lxc.cap.drop =",
            "lxc.cap.keep = sys_admin mknod"
        ])
    );
    assert_eq!(
        findings(&output, Severity::Warning).len(),
        5,
        "two options, two lines, no hypervisor file"
    );
    finding(
        &output,
        Severity::Warning,
        "Proxmox does not read the key lxc.sysctl.vm.max_map_count",
    );
    finding(&output, Severity::Info, "a list with commas; it is written with blanks");
    let target = of(&output, "lxc_options/0").target.as_deref();
    assert_eq!(target, Some("PhoenixLXC/one spec.apparmorProfile"));

    let clash = container(json!({"lxc_options": "lxc.apparmor.profile=generated", "apparmor_profile": "unconfined"}));
    finding(
        &clash,
        Severity::Warning,
        "apparmor_profile is \"unconfined\", which counts",
    );
    let nested = container(json!({"pct_options": {"nesting": true}, "apparmor_manages_nesting": true}));
    assert_eq!(crate::support::spec(&nested)["capabilities"]["nesting"], true);
    finding(&nested, Severity::Info, "although apparmor_manages_nesting is true");
    let unmanaged = container(json!({"apparmor_manages_nesting": false}));
    assert_eq!(crate::support::spec(&unmanaged)["capabilities"]["nesting"], true);
}

#[test]
fn cloning() {
    let template = |extra: Value| {
        let mut config = plain(json!({"name": "Base", "template_snapshot_name": "pre-configured"}));
        extra
            .as_object()
            .unwrap()
            .iter()
            .for_each(|(k, v)| config[k] = v.clone());
        config
    };
    for id in [json!("900"), json!(900), json!("0900"), json!(900.0)] {
        let output = containers(json!({"900": template(json!({})), "950": {"name": "one", "clone_from_ctid": id}}));
        assert_eq!(
            spec(&output)["source"],
            json!({"templateRef": {"name": "base"}}),
            "{id}"
        );
        assert_eq!(
            manifest(&output, "phoenixtemplate-base.yaml")["spec"]["snapshotName"],
            "pre-configured"
        );
    }
    for unset in [json!(null), json!(""), json!("none")] {
        let output = container(json!({ "clone_from_ctid": unset }));
        assert_eq!(
            spec(&output)["source"]["image"]["volid"],
            "local:vztmpl/debian.tar.zst",
            "{unset}"
        );
    }
    let error = |configs: Value, words: &str| {
        let output = containers(configs);
        assert!(!output.files.contains_key("phoenixlxc-one.yaml"), "{words}");
        let found = finding(&output, Severity::Error, words);
        assert_eq!(found.pointer, "/lxc_configs/950/clone_from_ctid");
        assert_eq!(of(&output, "cores").outcome, Outcome::NotMapped);
        assert_eq!(of(&output, "cores").object, None);
    };
    let child = |id: &str| json!({"name": "one", "cores": 2, "clone_from_ctid": id});
    error(
        json!({"950": child("900")}),
        "container 950: clone_from_ctid \"900\" is not in the files",
    );
    error(
        json!({"900": plain(json!({"name": "web"})), "950": child("900")}),
        "web is not a template",
    );
    error(json!({"950": child("950")}), "cloned in a circle (950)");
    error(
        json!({"950": child("951"), "951": {"clone_from_ctid": 950, "name": "two", "template_snapshot_name": "s1"}, "x": 1}),
        "container 950: clone_from_ctid \"951\": cloned in a circle (950 from 951)",
    );

    let named = containers(json!({"900": plain(json!({"name": "Template-Web"})), "950": child("900")}));
    assert_eq!(
        manifest(&named, "phoenixtemplate-template-web.yaml")["spec"]["form"],
        "Snapshot"
    );
    finding(&named, Severity::Warning, "becomes a PhoenixTemplate");
    let image = container(json!({"clone_from_ctid": "1234"}));
    finding(&image, Severity::Warning, "its own image is its source");
    finding(
        &containers(json!({"950": {"name": "one"}})),
        Severity::Warning,
        "what it is made from",
    );
    let smaller = containers(
        json!({"900": template(json!({"storage_size_gb": 64})), "950": {"name": "one", "clone_from_ctid": 900, "storage_size_gb": 32}}),
    );
    finding(
        &smaller,
        Severity::Warning,
        "its disk of 32Gi is smaller than that of its template (64Gi)",
    );
    let grandchild = containers(json!({
        "900": {"name": "base", "clone_from_ctid": "899", "template_snapshot_name": "s1"},
        "950": {"name": "one", "clone_from_ctid": "900"}
    }));
    finding(
        &grandchild,
        Severity::Warning,
        "container 950: its template PhoenixTemplate/base is not written",
    );
    assert_eq!(spec(&grandchild)["source"]["templateRef"]["name"], "base");
}

#[test]
fn a_parent_may_stand_in_another_file() {
    let base = json!({"lxc_configs": {"900": plain(json!({"name": "base", "is_template": true}))}}).to_string();
    let child = json!({"lxc_configs": {"950": {"name": "one", "clone_from_ctid": "900"}}}).to_string();
    let output = run(
        &[input("b.json", Role::Lxc, child), input("a.json", Role::Lxc, base)],
        &options(),
    );
    assert_eq!(spec(&output)["source"]["templateRef"]["name"], "base");
    let template = manifest(&output, "phoenixtemplate-base.yaml");
    assert_eq!(template["spec"]["form"], "Template");
    assert_eq!(template["spec"].get("snapshotName"), None);
}

#[test]
fn ids() {
    let one = json!({"lxc_configs": {"950": plain(json!({"cores": 2}))}}).to_string();
    let other = json!({"lxc_configs": {"950": plain(json!({"cores": 4}))}}).to_string();
    let output = run(
        &[
            input("a.json", Role::Lxc, one.clone()),
            input("b.json", Role::Lxc, other),
        ],
        &options(),
    );
    assert_eq!(spec(&output)["cores"], 2);
    let found = finding(&output, Severity::Error, "id 950 is taken by container 950");
    assert_eq!(
        (found.file.as_str(), found.pointer.as_str()),
        ("b.json", "/lxc_configs/950")
    );
    let output = run(
        &[input("a.json", Role::Lxc, one.clone()), input("b.json", Role::Lxc, one)],
        &options(),
    );
    finding(&output, Severity::Info, "stands twice, with equal content");

    for (id, config) in [
        ("abc", json!({"name": "x"})),
        ("99", json!({"name": "x"})),
        ("1000000000", json!({})),
        ("950", json!(null)),
        ("950", json!("x")),
        ("950", json!([])),
    ] {
        let output = containers(json!({id: config}));
        assert_eq!(output.report.count(Severity::Error), 1, "{id} {config}");
        assert!(!output.files.keys().any(|f| f.starts_with("phoenixlxc")));
    }
    let listed =
        containers(json!([{"ctid": "950", "name": "one", "template": "local:vztmpl/d.tar.zst"}, {"name": "no id"}]));
    assert_eq!(spec(&listed)["vmid"], 950);
    assert_eq!(listed.report.count(Severity::Error), 1);
    let bare = run(
        &[input("l.json", Role::Lxc, json!({"950": plain(json!({}))}).to_string())],
        &options(),
    );
    assert_eq!(spec(&bare)["vmid"], 950);
    for nothing in [json!(null), json!(7), json!("x")] {
        assert_eq!(containers(nothing).files.len(), 1, "only the kustomization");
    }
}

#[test]
fn a_repeated_key_counts_with_its_last_value() {
    let text = r#"{"lxc_configs": {"950": {"name": "one", "template": "local:vztmpl/d.tar.zst", "cores": {"x": 1}, "cores": 2, "cores": 4, "a/b~c": 1}}}"#;
    let output = run(&[input("l.json", Role::Lxc, text)], &options());
    assert_eq!(spec(&output)["cores"], 4);
    let found = finding(&output, Severity::Warning, "key \"cores\" stands more than once");
    assert_eq!(found.pointer, "/lxc_configs/950/cores");
    assert_eq!(of(&output, "a~1b~0c").outcome, Outcome::NotMapped);
}

#[test]
fn a_byte_order_mark_is_no_matter() {
    let text = format!("\u{feff}{}", json!({"lxc_configs": {"950": plain(json!({}))}}));
    assert_eq!(spec(&run(&[input("l.json", Role::Lxc, text)], &options()))["vmid"], 950);
}

#[test]
fn volumes_and_mounts() {
    let volume = |name: &str, path: &str| json!({"name": name, "pool": "tank", "size_gb": "50", "mount_point": path});
    let output = containers(json!({
        "950": plain(json!({"volumes": [volume("models", "/models"), volume("data", "/models/")], "zfs_volumes": [volume("models", "/m2")]})),
        "951": plain(json!({"name": "two", "zfs_volumes": [volume("models", "/models")]})),
    }));
    let volumes = spec(&output)["volumes"].clone();
    assert_eq!(
        volumes[0],
        json!({"name": "models", "storage": "tank", "size": "50Gi", "mountPath": "/models", "reclaimPolicy": "Retain"})
    );
    assert_eq!(
        (volumes[1]["name"].as_str(), volumes[1]["mountPath"].as_str()),
        (Some("models-2"), Some("/m2"))
    );
    assert_eq!(
        manifest(&output, "phoenixlxc-two.yaml")["spec"]["volumes"][0]["name"],
        "models",
        "a volume of its own"
    );
    finding(&output, Severity::Warning, "/models is taken by volume \"models\"");
    for bad in [
        json!({"name": "x"}),
        json!({"name": "x", "mount_point": "x", "size_gb": 1}),
        json!({"name": "x", "mount_point": "/x"}),
        json!("x"),
        json!(null),
    ] {
        let output = container(json!({ "volumes": [bad] }));
        assert_eq!(spec(&output).get("volumes"), None, "{bad}");
    }
    for (legacy, size) in [
        (json!(0.5), "512Mi"),
        (json!("512M"), "512Mi"),
        (json!("1.5G"), "1536Mi"),
        (json!(2048), "2048Gi"),
    ] {
        let small = json!([{"name": "x", "mount_point": "/x", "size_gb": legacy}]);
        let output = container(json!({"volumes": small, "storage_size_gb": legacy}));
        assert_eq!(spec(&output)["volumes"][0]["size"], size);
        assert_eq!(spec(&output)["rootfs"]["size"], size);
    }
    let bind = container(json!({"volumes": {"src": {"host_path": "/srv//x/", "mount_point": "/x"}}}));
    assert_eq!(
        spec(&bind)["hostMounts"],
        json!([{"name": "src", "hostPath": "/srv/x", "mountPath": "/x"}])
    );
}

#[test]
fn shared_volumes() {
    let hypervisor = json!({"shared_volumes": {
        "ssl_certs": {"host_path": "/srv/ssl", "mounts": {"950": "/certs", "777": "/certs", "951": "/x"}},
        "models": {"host_path": "/srv/models", "mounts": {"950": "/models"}},
        "broken": {"host_path": "srv", "mounts": {"950": "/b"}}
    }})
    .to_string();
    let own = json!([{"name": "models", "pool": "tank", "size_gb": 5, "mount_point": "/models"}]);
    let lxc = json!({"lxc_configs": {
        "950": plain(json!({"zfs_volumes": own})),
        "951": plain(json!({"name": "tpl", "template_snapshot_name": "s1"})),
    }})
    .to_string();
    let output = run(
        &[
            input("h.json", Role::Hypervisor, hypervisor),
            input("lxc.json", Role::Lxc, lxc),
        ],
        &options(),
    );
    assert_eq!(
        spec(&output)["hostMounts"],
        json!([{"name": "ssl_certs", "hostPath": "/srv/ssl", "mountPath": "/certs"}])
    );
    assert_eq!(spec(&output)["volumes"][0]["mountPath"], "/models");
    let found = finding(&output, Severity::Warning, "/models is taken by the guest's own volume");
    assert_eq!(found.pointer, "/shared_volumes/models/mounts/950");
    for leaf in [
        "models/host_path",
        "models/mounts/950",
        "ssl_certs/mounts/777",
        "ssl_certs/mounts/951",
        "broken/mounts/950",
    ] {
        assert_eq!(
            entry(&output, &format!("/shared_volumes/{leaf}")).outcome,
            Outcome::NotMapped,
            "{leaf}"
        );
    }
    finding(
        &output,
        Severity::Warning,
        "mounted into \"777\", which is not in the files",
    );
}

#[test]
fn addresses_that_stand_twice() {
    let output = containers(json!({
        "950": plain(json!({"network_config": {"ip": "10.0.0.5/24", "gw": "10.0.0.1"}, "mac_address": "52:54:00:00:00:01"})),
        "951": plain(json!({"name": "two", "network_config": {"ip": "10.0.0.5/16"}, "mac_address": "52:54:00:00:00:01"})),
        "952": plain(json!({"name": "three", "network_config": {"ip": "10.0.0.1/24"}, "mac_address": "52:54:00:00:00:0A"})),
    }));
    let found = finding(
        &output,
        Severity::Warning,
        "IP address 10.0.0.5 is also that of container 950",
    );
    assert_eq!(found.pointer, "/lxc_configs/951/network_config/ip");
    finding(
        &output,
        Severity::Warning,
        "MAC address 52:54:00:00:00:01 is also that of container 950",
    );
    finding(
        &output,
        Severity::Warning,
        "container 952: IP address 10.0.0.1 is that of a gateway",
    );
    // Both run as they did: the later one says that it is meant.
    let annotated = |file: &str| !manifest(&output, file)["metadata"]["annotations"].is_null();
    let shared = output
        .files
        .keys()
        .filter(|file| file.starts_with("phoenixlxc") && annotated(file));
    assert_eq!(shared.collect::<Vec<_>>(), ["phoenixlxc-two.yaml"]);
    assert_eq!(output.report.count(Severity::Error), 0);
}

#[test]
fn dependencies() {
    let depends = |name: &str, on: Value| plain(json!({"name": name, "dependencies": on}));
    let output = containers(json!({
        "950": depends("one", json!([951, "951", "999", "950", "x"])),
        "951": depends("two", json!("952, 953")),
        "952": depends("three", json!([953])),
        "953": depends("four", json!(952)),
        "954": depends("five", json!([])),
    }));
    assert_eq!(
        spec(&output)["dependsOn"],
        json!([{"kind": "PhoenixLXC", "name": "two"}])
    );
    assert_eq!(
        manifest(&output, "phoenixlxc-two.yaml")["spec"]["dependsOn"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    finding(
        &output,
        Severity::Warning,
        "container 950: it depends on 999, which is not in the files",
    );
    finding(&output, Severity::Warning, "container 950: it depends on itself");
    finding(
        &output,
        Severity::Warning,
        "container 952: its dependencies run in a circle, through 953",
    );
    finding(
        &output,
        Severity::Warning,
        "container 953: its dependencies run in a circle, through 952",
    );
    assert_eq!(of(&output, "dependencies/2").outcome, Outcome::NotMapped);
}

#[test]
fn vllm_arguments() {
    let output = container(json!({
        "vllm_model": "org/model", "vllm_max_model_len": "1024", "vllm_gpu_memory_utilization": 0.1, "gpu_assignment": "0",
        "features": ["vllm"],
        "vllm_args": ["--max-model-len=1024", "--gpu-memory-utilization", "0.10", "--dtype", "auto", "-tp", 2, "--enforce-eager", "--seed", "-1", "--max-num-seqs", "8", "--api-key", "hunter2"],
        "vllm_parameters": {"max_num_seqs": 8, "kv_cache_dtype": "fp8", "dtype": "float16", "enable_chunked_prefill": true, "seed": 5, "off": false}
    }));
    let vllm = spec(&output)["vllm"].clone();
    assert_eq!(
        vllm,
        json!({"model": "org/model", "maxModelLen": 1024, "gpuMemoryUtilization": 0.1, "tensorParallelSize": 1, "dtype": "auto",
               "extraArgs": ["--enforce-eager", "--seed", "-1", "--max-num-seqs", "8", "--kv-cache-dtype", "fp8", "--enable-chunked-prefill"]})
    );
    assert_eq!(
        of(&output, "vllm_args/2").target.as_deref(),
        Some("PhoenixLXC/one spec.vllm.gpuMemoryUtilization")
    );
    assert_eq!(
        of(&output, "vllm_parameters/max_num_seqs").target.as_deref(),
        Some("PhoenixLXC/one spec.vllm.extraArgs[4]")
    );
    finding(
        &output,
        Severity::Warning,
        "--dtype float16 contradicts dtype auto, which counts",
    );
    finding(
        &output,
        Severity::Warning,
        "--seed 5 contradicts --seed -1, which counts",
    );
    finding(
        &output,
        Severity::Warning,
        "vllm_args hold --api-key, which is not carried",
    );
    finding(
        &output,
        Severity::Warning,
        "tensor parallelism over 2 GPUs, but the guest has 1: so many are written",
    );
    let report = serde_json::to_string(&output.report).unwrap();
    assert!(
        !report.contains("hunter2") && !output.files.values().any(|f| f.contains("hunter2")),
        "no secret is repeated"
    );

    let one_text = container(json!({"vllm_model": "m", "vllm_args": "--served-model-name 'a b' --swap-space 4"}));
    assert_eq!(
        spec(&one_text)["vllm"],
        json!({"model": "m", "servedName": "a b", "extraArgs": ["--swap-space", "4"]})
    );
    assert_eq!(
        spec(&one_text)["features"],
        json!([{"name": "vllm"}]),
        "what the block needs"
    );
    for no_model in [json!(null), json!("")] {
        let output = container(json!({"vllm_model": no_model, "vllm_port": 8000}));
        assert_eq!(spec(&output).get("vllm"), None);
        finding(&output, Severity::Warning, "without vllm_model");
    }
    let old = container(json!({"vllm_model": "m", "vllm_api_port": "8001", "vllm_kv_cache_dtype": "fp8"}));
    let wanted = json!({"model": "m", "port": 8001, "extraArgs": ["--kv-cache-dtype", "fp8"]});
    assert_eq!(spec(&old)["vllm"], wanted, "keys of older files");
    let shares = containers(json!({
        "950": plain(json!({"vllm_model": "m", "features": ["vllm"], "gpu_assignment": "0", "vllm_gpu_memory_utilization": 0.6})),
        "951": plain(json!({"name": "two", "vllm_model": "m", "features": ["vllm"], "gpu_assignment": 0, "vllm_gpu_memory_utilization": 0.5})),
    }));
    finding(&shares, Severity::Warning, "GPU 0 is given out 1.10 times");
}

#[test]
fn features_and_their_parameters() {
    let text = json!({"nvidia_driver_version": "580.76.05", "nvidia_runfile_url": "https://example.org/n.run", "lxc_configs": {
        "950": plain(json!({"features": "base_setup, NVIDIA,my_own", "portainer_role": "agent"})),
        "951": plain(json!({"name": "two", "features": ["portainer", "portainer", 5, null, ""], "portainer_role": "Server"})),
        "952": plain(json!({"name": "three", "features": "nesting=1,keyctl=1", "portainer_role": "boss"})),
    }}).to_string();
    let output = run(&[input("l.json", Role::Lxc, text)], &options());
    let nvidia = json!({"driver-version": "580.76.05", "runfile-url": "https://example.org/n.run"});
    assert_eq!(
        spec(&output)["features"],
        json!([{"name": "base-setup"}, {"name": "nvidia", "parameters": nvidia}, {"name": "my-own"}, {"name": "portainer", "parameters": {"role": "agent"}}])
    );
    finding(
        &output,
        Severity::Warning,
        "feature \"my_own\" is none that Phoenix ships",
    );
    let two = manifest(&output, "phoenixlxc-two.yaml")["spec"]["features"].clone();
    assert_eq!(
        two,
        json!([{"name": "portainer", "parameters": {"role": "server"}}, {"name": "5"}])
    );
    let three = manifest(&output, "phoenixlxc-three.yaml")["spec"].clone();
    assert_eq!(
        (three.get("features"), &three["capabilities"]),
        (None, &json!({"nesting": true, "keyctl": true}))
    );
    assert_eq!(entry(&output, "/nvidia_driver_version").outcome, Outcome::Mapped);
}

#[test]
fn firewall() {
    let rule = json!({"type": "in", "action": "accept", "proto": "tcp", "port": 8000, "source": "10.0.0.153"});
    let output = container(
        json!({"network_config": "dhcp", "firewall": {"enabled": "true", "rules": [
            rule, {"type": "in", "action": "ACCEPT", "port": "80"}, {"type": "sideways", "action": "DROP"},
            {"type": "in", "action": "ACCEPT", "proto": "tcp", "port": "99999"}, 5
        ]}}),
    );
    let spec = spec(&output);
    assert_eq!(
        spec["firewall"],
        json!({"enabled": true, "rules": [{"direction": "in", "action": "ACCEPT", "protocol": "tcp", "source": "10.0.0.153", "port": "8000"}]})
    );
    assert_eq!(spec["network"][0]["firewall"], true);
    let refused = findings(&output, Severity::Warning);
    assert_eq!(
        refused
            .iter()
            .filter(|f| f.message.contains("is not a rule that Proxmox takes"))
            .count(),
        4
    );
    let closed = container(json!({"network_config": "dhcp", "firewall": {"enabled": true}}));
    assert_eq!(crate::support::spec(&closed)["network"][0].get("firewall"), None);
    finding(&closed, Severity::Warning, "lets nothing in");
}

#[test]
fn images() {
    let volid = |path: &str| spec(&container(json!({ "template": path })))["source"]["image"]["volid"].clone();
    assert_eq!(
        volid("/fastData/shared-iso/template/cache/u.tar.zst"),
        "fastData-shared-iso:vztmpl/u.tar.zst"
    );
    assert_eq!(volid("/var/lib/vz/template/cache/u.tar.zst"), "local:vztmpl/u.tar.zst");
    assert_eq!(volid("/mnt/pve/nas/template/cache/u.tar.gz"), "nas:vztmpl/u.tar.gz");
    assert_eq!(volid("nas:vztmpl/u.tar.gz"), "nas:vztmpl/u.tar.gz");
    assert_eq!(volid("u.tar.zst"), "local:vztmpl/u.tar.zst");
    for bad in ["https://example.org/u.tar.zst", "/a/b c.tar", "/"] {
        let output = container(json!({ "template": bad }));
        assert_eq!(spec(&output).get("source"), None, "{bad}");
        assert_eq!(of(&output, "template").outcome, Outcome::NotMapped);
    }
}

#[test]
fn scripts() {
    let text = json!({"lxc_configs": {
        "950": plain(json!({
            "application_script": "apps/run.sh",
            "tests": {"health_checks": [{"name": "Check It", "type": "script", "path": "t/check.sh"}, "t/other.py"],
                      "integration_tests": {"path": "missing.sh"}},
            "integration_tests": {"script": "check.sh"},
            "health_checks": [{"name": "Check It", "command": "true"}],
        })),
        "951": plain(json!({"name": "two", "application_script": "gone.sh", "health_check": {"command": "curl x", "retries": 500, "interval": 5}})),
    }})
    .to_string();
    let files = folder(&[
        ("apps/run.sh", "#!/bin/sh\n. ./common_utils.sh\n"),
        ("lib/common_utils.sh", "# helpers\n"),
        ("t/check.sh", "#!/bin/sh\ntrue\n"),
        ("t/other.py", "print(1)\n"),
        ("stray.sh", "true\n"),
    ]);
    let output = run(&[input("l.json", Role::Lxc, text)], &files);
    let spec = spec(&output);
    let application = &spec["application"];
    assert_eq!(
        application["scriptFrom"],
        json!({"name": "legacy-applications", "key": "run.sh"})
    );
    assert_eq!(application["contract"], "Legacy");
    let paths: Vec<_> = application["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["common_utils.sh", "phoenix_lxc_configs.json"]);
    let tests: Vec<_> = spec["tests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect();
    assert_eq!(tests, ["check-it", "other", "check-it-2"]);
    assert_eq!(spec["tests"][2]["script"], "#!/bin/sh\ntrue\n");
    assert_eq!(
        of(&output, "integration_tests/script").target.as_deref(),
        Some("PhoenixLXC/one spec.tests[0].scriptFrom.key")
    );
    finding(
        &output,
        Severity::Warning,
        "script \"missing.sh\" is not in the applications folder",
    );
    finding(
        &output,
        Severity::Warning,
        "container 951: script \"gone.sh\" is not in the applications folder",
    );
    finding(
        &output,
        Severity::Info,
        "script \"stray.sh\" of the applications folder is named by no guest",
    );
    let two = manifest(&output, "phoenixlxc-two.yaml")["spec"].clone();
    assert_eq!(two.get("application"), None);
    assert_eq!(
        two["health"]["readiness"],
        json!({"exec": {"command": ["/bin/sh", "-c", "curl x"]}, "periodSeconds": 5})
    );
}

#[test]
fn many_and_large_scripts() {
    let big = "x".repeat(150_000);
    let names: Vec<String> = (0..9).map(|n| format!("run{n}.sh")).collect();
    let configs: serde_json::Map<String, Value> = (names.iter().enumerate())
        .map(|(n, script)| {
            (
                (200 + n).to_string(),
                plain(json!({"name": format!("n{n}"), "application_script": script})),
            )
        })
        .collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), big.as_str())).collect();
    let huge = "y".repeat(2_000_000);
    files[8].1 = &huge;
    let text = json!({ "lxc_configs": configs }).to_string();
    let output = run(&[input("l.json", Role::Lxc, text)], &folder(&files));
    let maps = output
        .files
        .iter()
        .filter(|(f, _)| f.starts_with("configmap-legacy-applications"));
    assert!(maps.clone().count() == 8 && maps.into_iter().all(|(_, text)| text.len() < 250_000));
    finding(&output, Severity::Warning, "more than 1 MiB in all");
    finding(&output, Severity::Warning, "larger than a ConfigMap can hold");
    assert_eq!(
        manifest(&output, "phoenixlxc-n3.yaml")["spec"]["application"]["scriptFrom"]["name"],
        "legacy-applications-4"
    );
}

#[test]
fn helpers_that_cannot_be_carried_are_said() {
    let configs = json!({"950": plain(json!({"application_script": "run.sh"}))});
    let text = json!({ "lxc_configs": configs }).to_string();
    let huge = "y".repeat(1_100_000);
    let names: Vec<String> = (0..40).map(|n| format!("helper{n:02}.sh")).collect();
    let run_sh = format!("#!/bin/bash\nsource ./huge.sh\n{}\n", names.join("\n"));
    let mut files = vec![("run.sh", run_sh.as_str()), ("huge.sh", huge.as_str())];
    files.extend(names.iter().map(|name| (name.as_str(), "true\n")));
    let output = run(&[input("l.json", Role::Lxc, text)], &folder(&files));
    let said = finding(
        &output,
        Severity::Warning,
        "\"huge.sh\", which the script names, is larger than",
    );
    assert!(said.message.contains("1 MiB"), "{said:?}");
    let said = finding(&output, Severity::Warning, "more than 32 files");
    // The JSON files go before the helpers.
    assert!(
        said.message.contains("helper39.sh") && !said.message.contains(".json"),
        "{said:?}"
    );
    let written = manifest(&output, "phoenixlxc-one.yaml")["spec"]["application"]["files"].clone();
    assert_eq!(written.as_array().unwrap().len(), 32);
    assert_eq!(written[31]["path"], "phoenix_lxc_configs.json");
}

#[test]
fn secrets_do_not_leave_the_files() {
    let hypervisor = json!({"users": {"username": "admin", "password_hash": "$6$topsecret"}, "network": {"interfaces": {"name": "vmbr0", "address": "10.0.0.2/24"}}}).to_string();
    let vms = json!({"vms": [{"vmid": 300, "name": "vm", "template_image": "x.img", "user_config": {"username": "u", "password_hash": "$6$topsecret", "ssh_public_key": "ssh-ed25519 AAAA"}}]}).to_string();
    let lxc = json!({"lxc_configs": {"950": plain(json!({"application_script": "a.sh", "api_token": "topsecret", "root_password": "topsecret"}))}}).to_string();
    let inputs = [
        input("h.json", Role::Hypervisor, hypervisor),
        input("l.json", Role::Lxc, lxc),
        input("v.json", Role::Vm, vms),
    ];
    let output = run(&inputs, &folder(&[("a.sh", "true\n")]));
    assert!(!output.files.values().any(|f| f.contains("topsecret")));
    assert!(!serde_json::to_string(&output.report).unwrap().contains("topsecret"));
    let init = manifest(&output, "phoenixvm-vm.yaml")["spec"]["cloudInit"].clone();
    assert_eq!(
        init["passwordHashSecretRef"],
        json!({"name": "vm-cloud-init", "key": "passwordHash"})
    );
    assert_eq!(
        findings(&output, Severity::Warning)
            .iter()
            .filter(|f| f.message.contains("holds secrets"))
            .count(),
        3
    );
}

#[test]
fn machines() {
    let vms = json!({"vm_defaults": {"cores": 2, "memory_mb": 4096, "disk_size_gb": 20, "storage_pool": "tank", "network_bridge": "vmbr0", "template": "t", "odd": 1}, "vms": [
        {"vmid": "300", "name": "Base", "is_template": "yes", "template_image": "x.img"},
        {"vmid": 301, "name": "snap", "template_image": "x.img", "template_snapshot_name": "s1"},
        {"vmid": 302, "name": "a", "clone_from_vmid": 300, "cores": 8},
        {"vmid": 303, "name": "b", "clone_from_vmid": "301", "template_snapshot_name": "later"},
        {"vmid": 304, "name": "c"},
        {"name": "no id"}
    ]}).to_string();
    let lxc = json!({"lxc_configs": {"950": {"name": "one", "clone_from_ctid": 300}}}).to_string();
    let output = run(
        &[input("v.json", Role::Vm, vms), input("l.json", Role::Lxc, lxc)],
        &options(),
    );
    assert_eq!(
        manifest(&output, "phoenixtemplate-base.yaml")["spec"]["form"],
        "Template"
    );
    assert_eq!(
        manifest(&output, "phoenixtemplate-snap.yaml")["spec"]["snapshotName"],
        "s1"
    );
    let a = manifest(&output, "phoenixvm-a.yaml")["spec"].clone();
    assert_eq!(a["source"]["templateRef"]["name"], "base");
    assert_eq!((&a["cpu"]["cores"], &a["memory"]), (&json!(8), &json!("4Gi")));
    assert_eq!(a["disks"], json!([{"name": "root", "storage": "tank", "size": "20Gi"}]));
    assert_eq!(a["network"], json!([{"name": "net0", "bridge": "vmbr0"}]));
    assert_eq!(manifest(&output, "phoenixvm-b.yaml")["kind"], "PhoenixVM");
    assert_eq!(
        entry(&output, "/vms/3/template_snapshot_name").outcome,
        Outcome::NotMapped
    );
    let defaults = entry(&output, "/vm_defaults/cores").target.clone().unwrap();
    assert!(
        defaults.contains("PhoenixVM/b spec.cpu.cores") && !defaults.contains("PhoenixVM/a "),
        "{defaults}"
    );
    finding(
        &output,
        Severity::Warning,
        "machine 304: neither clone_from_vmid nor template_image (vm_defaults: \"t\")",
    );
    finding(&output, Severity::Error, "that is a machine 300");
    finding(&output, Severity::Error, "machine without a valid id");
}

#[test]
fn no_hypervisor_file() {
    finding(&container(json!({})), Severity::Warning, "no hypervisor file");
    let bare = run(&[input("h.json", Role::Hypervisor, "{}")], &options());
    let spec = manifest(&bare, "phoenixhypervisor-proxmox.yaml")["spec"].clone();
    assert_eq!(spec["endpoints"], json!(["https://pve.example.org:8006"]));
    finding(&bare, Severity::Warning, "the endpoint is a placeholder");
    assert_eq!(
        entry(&bare, "").outcome,
        Outcome::NotMapped,
        "an empty object is a leaf"
    );
}

#[test]
fn an_unknown_key_is_told_and_harmless() {
    let output = container(json!({"new_key": {"a": [1, {"b": {}}], "c": []}, "_comment": "words"}));
    for leaf in ["new_key/a/0", "new_key/a/1/b", "new_key/c"] {
        let entry = of(&output, leaf);
        assert!(entry.note.starts_with("unknown key"), "{entry:?}");
        assert_eq!(entry.object.as_deref(), Some("PhoenixLXC/one"));
    }
    assert_eq!(of(&output, "_comment").note, "a comment");
    assert_eq!(output.report.count(Severity::Error), 0);
}
