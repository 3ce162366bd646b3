//! Application scripts in the style of the legacy managers, unmodified, each in a container of its own.

use phoenix::desired::Key;
use serde_json::{Value, json};

use crate::features::clone;
use crate::world::{Real, lxc_key};

/// Name, script, and what must be so in the container afterwards.
const SCRIPTS: [(&str, &str, &str); 5] = [
    (
        "web-page",
        include_str!("legacy/web_page.sh"),
        "curl -fs --noproxy '*' http://127.0.0.1:8088/ | grep -F '<h1>web-page</h1><p>10.0.0.60</p>'",
    ),
    (
        "nginx-sites",
        include_str!("legacy/nginx_sites.sh"),
        "[ \"$(grep -c proxy_pass /etc/gateway/sites.conf)\" = 2 ] && grep -F 'http://10.0.0.62:8000' /etc/gateway/sites.conf",
    ),
    (
        "user-and-timer",
        include_str!("legacy/user_and_timer.sh"),
        "grep -x 512 /home/svc-app/beats && systemctl is-active beat.timer",
    ),
    (
        "vllm-unit",
        include_str!("legacy/vllm_unit.sh"),
        "systemctl is-active vllm_model_server && systemctl show -p Environment vllm_model_server | grep -F -- '--max-model-len 32768'",
    ),
    (
        "backup-client",
        include_str!("legacy/backup_client.sh"),
        "[ \"$(sed -n 's/^keep=//p' /etc/backup/client.conf)\" = 7 ] && grep -x 'server=10.0.0.13' /etc/backup/client.conf",
    ),
];

fn config(real: &Real) -> Vec<(&'static str, String)> {
    // The ids are the ones that the objects got: legacy files name containers by id.
    let guests: serde_json::Map<String, Value> = SCRIPTS
        .iter()
        .enumerate()
        .map(|(i, (name, ..))| {
            let mut guest = json!({
                "name": name, "memory_mb": 512, "features": ["base_setup"],
                "network_config": {"name": "eth0", "ip": format!("10.0.0.{}/24", 60 + i), "gw": "10.0.0.1"},
            });
            if *name == "vllm-unit" {
                guest["vllm_model"] = json!("Qwen/Qwen2.5-7B-Instruct-AWQ");
                guest["vllm_port"] = json!(8000);
                guest["vllm_trust_remote_code"] = json!(true);
                guest["vllm_args"] = json!(["--max-model-len", "32768"]);
            }
            if i == 1 || i == 2 {
                guest["ports"] = json!(["8000:8000", "9000:9001"]);
            }
            (real.vmid(&lxc_key(name)).to_string(), guest)
        })
        .collect();
    vec![
        ("phoenix_lxc_configs.json", json!({"lxc_configs": guests}).to_string()),
        ("phoenix_vm_configs.json", json!({"vms": []}).to_string()),
        (
            "phoenix_hypervisor_config.json",
            json!({"nfs": {"server": "10.0.0.13"}}).to_string(),
        ),
    ]
}

fn application(script: &str, config: &[(&str, String)]) -> Value {
    let mut files: Vec<Value> = config
        .iter()
        .map(|(path, content)| json!({"path": path, "content": content}))
        .collect();
    let retention = "#!/usr/bin/env python3\nimport sys\nassert int(sys.argv[1]) >= 1000\nprint(7)\n";
    files.push(json!({"path": "retention.py", "content": retention, "mode": "0755"}));
    json!({"script": script, "contract": "Legacy", "files": files})
}

/// Runs them all in clones of a template.
pub async fn scripts_run_unmodified(real: &mut Real, template: &str) {
    let plain = |name: &str, fields: Value| clone(name, template, fields);
    let keys: Vec<Key> = SCRIPTS
        .iter()
        .map(|(name, ..)| real.world.store.apply(plain(name, json!({}))))
        .collect();
    real.ready(&keys).await;
    let config = config(real);
    for (name, script, _) in SCRIPTS {
        real.world
            .store
            .apply(plain(name, json!({"application": application(script, &config)})));
    }
    real.ready(&keys).await;
    for ((name, _, check), key) in SCRIPTS.iter().zip(&keys) {
        let output = real.node.exec(real.vmid(key), &["/bin/sh", "-c", check]);
        let said = real.sh(key, "cat /var/lib/phoenix/application/output.*");
        assert!(output.status.success(), "{name}: {check}\nthe script said: {said}");
        let status = real.object(key).status.application.unwrap();
        assert_eq!(
            (status.state.as_deref(), status.attempts),
            (Some("Succeeded"), Some(1)),
            "{name}: {said}"
        );
    }
}
