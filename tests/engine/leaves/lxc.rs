//! Values for the leaves of a container, and what is around them.

use serde_json::{Value, json};

use super::table::{Group, one, two};
use crate::engine::IMAGE;

/// What every container of the walk has.
pub fn base() -> Value {
    json!({
        "source": {"image": {"volid": IMAGE}}, "cores": 2, "memory": "1Gi", "rootfs": {"size": "8Gi"},
        "powerState": "Stopped",
    })
}

/// Fields of containers and machines alike, where both are stopped.
pub fn shared(interface: &str) -> Vec<Group> {
    let network = |more: Value| {
        let mut entry = json!({"name": interface, "ip": "@IP/24"});
        super::table::merge(&mut entry, &more);
        json!({"network": [entry]})
    };
    let rule = |more: Value| {
        let mut entry = json!({"direction": "in", "action": "ACCEPT"});
        super::table::merge(&mut entry, &more);
        let mut spec = network(json!({"firewall": true}));
        spec["firewall"] = json!({"enabled": true, "rules": [entry]});
        spec
    };
    vec![
        one("boot.autostart").auto().one("boot.order", 1, 2).one("boot.upDelay", 1, 2).one("boot.downDelay", 1, 2),
        one("description").to("one", "two").one("hostname", "one", "two").auto_of("protection"),
        one("dns.nameservers[]").to("10.0.0.53", "10.0.0.54"),
        one("dns.searchDomain").to("a.example", "b.example").one("dns.searchDomains[]", "a.example", "b.example"),
        one("tags[]").to("one", "two").one("pool", "ai", "ml"),
        one("node").to("phoenix", "two").one("vmid", 5000, 5001),
        one("hypervisorRef.name").to("pve", "other"),
        one("hypervisorRef.namespace").to("ai", "other"),
        one("powerState").to("Stopped", "Running"),
        one("source.templateRef.name").after_absence("base").with(json!({"source": {"image": null, "cloudImage": null}})),
        one("network[].bridge").to("vmbr0", "vmbr1").one("network[].vlan", 7, 8).one("network[].mtu", 1400, 1300)
            .one("network[].rate", 10, 20).auto_of("network[].firewall").auto_of("network[].linkDown")
            .one("network[].mac", "BC:24:11:00:00:01", "BC:24:11:00:00:02").one("network[].trunks[]", 7, 8)
            .with(network(json!({}))),
        one("network[].ip").to("@IP/24", "@IP/16").with(network(json!({}))),
        one("network[].ip6").to("fd00::1/64", "fd00::2/64").with(network(json!({}))),
        one("network[].gateway").to("10.0.0.1", "10.0.0.2").with(network(json!({}))),
        one("network[].gateway6").to("fd00::1", "fd00::2").with(network(json!({"ip6": "fd00::7/64"}))),
        one("network[].name").to(interface, two(interface)).with(network(json!({}))),
        one("firewall.enabled").auto().auto_of("firewall.inboundPolicy").auto_of("firewall.outboundPolicy")
            .with(network(json!({"firewall": true}))),
        one("firewall.rules[].action").auto().one("firewall.rules[].comment", "one", "two")
            .one("firewall.rules[].destination", "10.0.0.1", "10.0.0.2").one("firewall.rules[].source", "10.0.0.1", "10.0.0.2")
            .auto_of("firewall.rules[].direction").one("firewall.rules[].enabled", true, false).one("firewall.rules[].macro", "SSH", "HTTP")
            .one("firewall.rules[].protocol", "tcp", "udp").with(rule(json!({}))),
        one("firewall.rules[].port").to("22", "23").one("firewall.rules[].sourcePort", "22", "23")
            .with(rule(json!({"protocol": "tcp"}))),
        one("firewall.rules[].interface").to(interface, two(interface)).with(json!({
            "network": [{"name": interface, "ip": "@IP/24", "firewall": true}, {"name": two(interface), "firewall": true}],
            "firewall": {"enabled": true, "rules": [{"direction": "in", "action": "ACCEPT"}]},
        })),
    ]
}

/// What is told by scripts and probes of a running guest.
pub fn running() -> Vec<Group> {
    let script = "#!/bin/sh\necho one\n";
    let mut groups = vec![
        one("application.contract").auto().one("application.script", script, "#!/bin/sh\necho two\n")
            .one("application.user", "root", "nobody").one("application.workingDirectory", "/srv", "/opt")
            .with(json!({"application": {"script": script}})),
        one("application.scriptFrom.key").to("one", "two").one("application.scriptFrom.name", "words", "others")
            .with(json!({"application": {"scriptFrom": {"name": "words", "key": "one"}}})),
        one("application.environment[].name").to("A", "B").one("application.environment[].value", "one", "two")
            .with(json!({"application": {"script": script, "environment": [{"name": "A", "value": "one"}]}})),
        one("application.environment[].secretKeyRef.key").to("one", "two")
            .one("application.environment[].secretKeyRef.name", "secrets", "others")
            .with(json!({"application": {"script": script, "environment": [{"name": "A", "secretKeyRef": {"name": "secrets", "key": "one"}}]}})),
        one("application.files[].content").to("one", "two").one("application.files[].mode", "0644", "0600")
            .one("application.files[].path", "/etc/one", "/etc/two")
            .with(json!({"application": {"script": script, "files": [{"path": "/etc/one", "content": "one"}]}})),
        one("application.files[].contentFrom.key").to("one", "two").one("application.files[].contentFrom.name", "words", "others")
            .with(json!({"application": {"script": script, "files": [{"path": "/etc/one", "contentFrom": {"name": "words", "key": "one"}}]}})),
        one("features[].name").to("first", "second").with(json!({"features": [{"name": "first"}]})),
        one("features[].parameters{}").to("one", "two").with(json!({"features": [{"name": "first"}]})),
        one("tests[].name").to("one", "two").one("tests[].script", script, "#!/bin/sh\necho two\n").auto_of("tests[].kind")
            .with(json!({"tests": [{"name": "one", "script": script}]})),
        one("tests[].scriptFrom.key").to("one", "two").one("tests[].scriptFrom.name", "words", "others")
            .with(json!({"tests": [{"name": "one", "scriptFrom": {"name": "words", "key": "one"}}]})),
    ];
    for probe in ["startup", "readiness", "liveness"] {
        let at = |leaf: &str| format!("health.{probe}.{leaf}");
        let with = |action: Value| json!({"health": {(probe): action}});
        groups.extend([
            one(at("exec.command[]"))
                .to("one", "two")
                .one(at("timeoutSeconds"), 2, 3)
                .with(with(json!({"exec": {"command": ["one"]}}))),
            one(at("httpGet.port"))
                .to(80, 81)
                .one(at("httpGet.host"), "one.example", "two.example")
                .one(at("httpGet.path"), "/one", "/two")
                .auto_of(at("httpGet.scheme"))
                .with(with(json!({"httpGet": {"port": 80}}))),
            one(at("tcpSocket.port"))
                .to(80, 81)
                .one(at("tcpSocket.host"), "one.example", "two.example")
                .with(with(json!({"tcpSocket": {"port": 80}}))),
        ]);
    }
    groups
        .into_iter()
        .map(|group| group.with(json!({"powerState": "Running"})))
        .collect()
}

/// The leaves that only containers have.
pub fn groups() -> Vec<Group> {
    let volume = |more: Value| {
        let mut entry = json!({"name": "data", "size": "1Gi", "mountPath": "/data", "reclaimPolicy": "Delete"});
        super::table::merge(&mut entry, &more);
        json!({"volumes": [entry]})
    };
    let bind = json!({"hostMounts": [{"name": "etc", "hostPath": "/etc", "mountPath": "/a"}]});
    let url = "https://images.example/one.tar.zst";
    let mut groups = vec![
        one("apparmorProfile")
            .to("generated", "unconfined")
            .auto_of("capabilities.fuse")
            .auto_of("capabilities.keyctl")
            .auto_of("capabilities.nesting")
            .auto_of("capabilities.mknod")
            .auto_of("console")
            .one("cmode", "tty", "shell")
            .one("cores", 2, 4)
            .one("cpuLimit", 1, 1.5)
            .one("cpuUnits", 100, 200)
            .one("memory", "1Gi", "2Gi")
            .one("swap", "1Gi", "2Gi")
            .one("tty", 1, 2)
            .one("timezone", "host", "Europe/Berlin")
            .one("rootfs.size", "512Mi", "1Gi")
            .one("unprivileged", true, false)
            .one("rootfs.storage", "quickOS-lxc-disks", "fastData-shared-bulk-data")
            .one("hookscript", "local:snippets/one.pl", "local:snippets/two.pl")
            .one(
                "lxcOptions[]",
                "lxc.cgroup2.devices.allow = c 195:* rwm",
                "lxc.cgroup2.devices.allow = c 196:* rwm",
            ),
        one("capabilities.mount[]")
            .to("nfs", "cifs")
            .with(json!({"unprivileged": false})),
        one("environment{}")
            .after_absence("one")
            .one_after_absence("entrypoint", "/init"),
        one("devices[].uid")
            .to(1, 2)
            .one("devices[].gid", 1, 2)
            .one("devices[].mode", "0660", "0600")
            .auto_of("devices[].denyWrite")
            .one("devices[].path", "/dev/kfd", "/dev/uinput")
            .with(json!({"devices": [{"path": "/dev/kfd"}]})),
        one("gpus[].index").to(0, 1).with(json!({"gpus": [{"index": 0}]})),
        one("gpus[].pciAddress")
            .to("0000:41:00.0", "0000:61:00.0")
            .one(
                "gpus[].uuid",
                "GPU-5a1d0c3e-0000-4000-8000-000000000000",
                "GPU-5a1d0c3e-0000-4000-8000-000000000001",
            )
            .one("gpus[].count", 1, 2)
            .with(json!({"gpus": [{}]})),
        one("gpus[].dri")
            .after_missing(true)
            .one_after_missing("gpus[].gid", 44)
            .one_after_missing("gpus[].mode", "0660")
            .with(json!({"gpus": [{"index": 0}]})),
        one("gpus[].model")
            .after_missing("RTX 9999")
            .one_after_missing("gpus[].vramAtLeast", "900Gi")
            .with(json!({"gpus": [{"count": 1}]})),
        one("hostMounts[].hostPath")
            .to("/etc", "/var/lib/vz/snippets")
            .one("hostMounts[].mountPath", "/a", "/b")
            .one("hostMounts[].name", "one", "two")
            .auto_of("hostMounts[].readOnly")
            .auto_of("hostMounts[].shared")
            .auto_of("hostMounts[].mountOptions[]")
            .one_after_missing("hostMounts[].idmap", "u:1000:1000:1")
            .with(bind),
        one("volumes[].size")
            .to("512Mi", "1Gi")
            .one("volumes[].mountPath", "/data", "/more")
            .one("volumes[].name", "one", "two")
            .auto_of("volumes[].acl")
            .auto_of("volumes[].backup")
            .auto_of("volumes[].quota")
            .auto_of("volumes[].readOnly")
            .auto_of("volumes[].replicate")
            .auto_of("volumes[].shared")
            .auto_of("volumes[].mountOptions[]")
            .one("volumes[].reclaimPolicy", "Delete", "Retain")
            .one("volumes[].storage", "fastData-shared-bulk-data", "quickOS-lxc-disks")
            .one_after_missing("volumes[].idmap", "u:1000:1000:1")
            .with(volume(json!({}))),
        one("volumes[].volid")
            .to(
                "fastData-shared-bulk-data:subvol-777-disk-0",
                "fastData-shared-bulk-data:subvol-777-disk-1",
            )
            .with(json!({"volumes": [{"name": "data", "mountPath": "/data"}]})),
        one("source.image.volid").to(IMAGE, "fastData-shared-iso:vztmpl/other.tar.zst"),
        one("source.image.url")
            .to(url, "https://images.example/two.tar.zst")
            .one("source.image.sha256", super::SUM, "0".repeat(64))
            .one("source.image.storage", "local", "fastData-shared-iso")
            .with(json!({"source": {"image": {"volid": null, "url": url, "sha256": super::SUM, "storage": "local"}}})),
        one("source.image.appliance")
            .to(
                "ubuntu-24.04-standard_24.04-2_amd64.tar.zst",
                "debian-12-standard_12.7-1_amd64.tar.zst",
            )
            .with(json!({"source": {"image": {"volid": null, "storage": "fastData-shared-iso"}}})),
        one("source.oci.reference")
            .after_absence("docker.io/library/nginx:1")
            .with(json!({"source": {"image": null}})),
        one("sshKeysSecretRef.key")
            .to("one", "two")
            .one("sshKeysSecretRef.name", "keys", "more-keys")
            .with(json!({"sshKeysSecretRef": {"name": "keys", "key": "one"}})),
    ];
    let vllm = |more: Value| {
        // Servers of several rows run side by side on the same cards.
        let mut entry = json!({"model": "org/model", "cachePath": "/models", "gpuMemoryUtilization": 0.01});
        super::table::merge(&mut entry, &more);
        let mut spec = volume(json!({"name": "models", "mountPath": "/models"}));
        super::table::merge(
            &mut spec,
            &json!({"vllm": entry, "gpus": [{"index": 0}, {"index": 1}], "features": [{"name": "vllm"}], "powerState": "Running"}),
        );
        spec
    };
    // Servers on one card start one after the other, which takes many looks.
    let without_cards = |more: Value| {
        let mut spec = vllm(more);
        spec["gpus"] = json!([]);
        spec
    };
    groups.extend([
        one("vllm.model")
            .to("org/model", "org/other")
            .one("vllm.cachePath", "/models", "/srv")
            .one("vllm.dtype", "auto", "half")
            .one("vllm.extraArgs[]", "--seed=1", "--seed=2")
            .one("vllm.gpuMemoryUtilization", 0.01, 0.02)
            .one("vllm.maxModelLen", 1024, 2048)
            .auto_of("vllm.modelType")
            .one("vllm.port", 8000, 8001)
            .one("vllm.quantization", "fp8", "awq")
            .one("vllm.servedName", "one", "two")
            .one("vllm.tensorParallelSize", 1, 2)
            .auto_of("vllm.trustRemoteCode")
            .with(vllm(json!({}))),
        one("vllm.environment[].name")
            .to("A", "B")
            .one("vllm.environment[].value", "one", "two")
            .with(vllm(json!({"environment": [{"name": "A", "value": "one"}]}))),
        one("vllm.environment[].secretKeyRef.key")
            .to("one", "two")
            .one("vllm.environment[].secretKeyRef.name", "secrets", "others")
            .with(vllm(
                json!({"environment": [{"name": "A", "secretKeyRef": {"name": "secrets", "key": "one"}}]}),
            )),
        one("vllm.apiKeySecretRef.key")
            .to("one", "two")
            .one("vllm.apiKeySecretRef.name", "tokens", "more-tokens")
            .with(without_cards(
                json!({"apiKeySecretRef": {"name": "tokens", "key": "one"}}),
            )),
        one("vllm.host")
            .to("0.0.0.0", "::")
            .auto_of("vllm.sleepMode")
            .with(without_cards(json!({}))),
        one("vllm.tokenSecretRef.key")
            .to("one", "two")
            .one("vllm.tokenSecretRef.name", "tokens", "more-tokens")
            .with(vllm(json!({"tokenSecretRef": {"name": "tokens", "key": "one"}}))),
    ]);
    groups.extend(other_servers());
    groups.extend(shared("eth0"));
    groups.extend(running());
    groups
}

/// Model servers besides vLLM, each in a container without cards: on one card they would start one after the other.
fn other_servers() -> Vec<Group> {
    let server = |block: &str, entry: Value| {
        json!({
            "volumes": [{"name": "models", "size": "1Gi", "mountPath": "/models", "reclaimPolicy": "Delete"}],
            block: entry, "features": [{"name": block}], "powerState": "Running",
        })
    };
    let ollama = |more: Value| {
        let mut entry = json!({"models": ["qwen3:8b"]});
        super::table::merge(&mut entry, &more);
        server("ollama", entry)
    };
    let llamacpp = |more: Value| {
        let mut entry = json!({"model": "org/model-GGUF"});
        super::table::merge(&mut entry, &more);
        server("llamacpp", entry)
    };
    vec![
        one("ollama.models[]")
            .to("qwen3:8b", "gemma3:4b")
            .one("ollama.host", "0.0.0.0", "::")
            .one("ollama.port", 11434, 11435)
            .one("ollama.modelsPath", "/models", "/srv")
            .one("ollama.contextLength", 4096, 8192)
            .one("ollama.keepAlive", "5m", "-1")
            .with(ollama(json!({}))),
        one("ollama.environment[].name")
            .to("A", "B")
            .one("ollama.environment[].value", "one", "two")
            .with(ollama(json!({"environment": [{"name": "A", "value": "one"}]}))),
        one("ollama.environment[].secretKeyRef.key")
            .to("one", "two")
            .one("ollama.environment[].secretKeyRef.name", "secrets", "others")
            .with(ollama(
                json!({"environment": [{"name": "A", "secretKeyRef": {"name": "secrets", "key": "one"}}]}),
            )),
        one("llamacpp.model")
            .to("org/model-GGUF", "/models/a.gguf")
            .one("llamacpp.servedName", "one", "two")
            .one("llamacpp.contextSize", 4096, 8192)
            .one("llamacpp.gpuLayers", 10, 99)
            .one("llamacpp.parallel", 1, 2)
            .auto_of("llamacpp.embeddings")
            .one("llamacpp.host", "0.0.0.0", "::")
            .one("llamacpp.port", 8080, 8081)
            .one("llamacpp.cachePath", "/models", "/srv")
            .one("llamacpp.extraArgs[]", "--metrics", "--jinja")
            .with(llamacpp(json!({}))),
        one("llamacpp.environment[].name")
            .to("A", "B")
            .one("llamacpp.environment[].value", "one", "two")
            .with(llamacpp(json!({"environment": [{"name": "A", "value": "one"}]}))),
        one("llamacpp.environment[].secretKeyRef.key")
            .to("one", "two")
            .one("llamacpp.environment[].secretKeyRef.name", "secrets", "others")
            .with(llamacpp(
                json!({"environment": [{"name": "A", "secretKeyRef": {"name": "secrets", "key": "one"}}]}),
            )),
        one("llamacpp.apiKeySecretRef.key")
            .to("one", "two")
            .one("llamacpp.apiKeySecretRef.name", "tokens", "more-tokens")
            .with(llamacpp(json!({"apiKeySecretRef": {"name": "tokens", "key": "one"}}))),
        one("llamacpp.tokenSecretRef.key")
            .to("one", "two")
            .one("llamacpp.tokenSecretRef.name", "tokens", "more-tokens")
            .with(llamacpp(json!({"tokenSecretRef": {"name": "tokens", "key": "one"}}))),
    ]
}
