//! Which probe counts, and what its command looks like. `tests/scripts/guest.rs` runs the commands.

use super::*;

fn probe_of(objects: &MemoryObjects, object: &GuestObject) -> Option<Probe> {
    health(object, &objects.hypervisor("infra", "pve").unwrap(), objects).readiness
}

#[test]
fn the_objects_own_probe_counts_then_vllms_then_the_last_features() {
    for (spec, want) in [
        ("", None),
        ("  features: [{name: vllm}]", None),
        ("  features: [{name: docker}, {name: nvidia}]", Some("docker info")),
        ("  features: [{name: portainer}]", Some("docker info")),
        ("  features: [{name: docker}, {name: web}]", Some("web")),
        ("  features: [{name: web}, {name: docker}]", Some("docker info")),
        ("  features: [{name: docker}, {name: nonsense}]", None),
        (
            "  features: [{name: docker}]\n  vllm: {model: m, port: 8001}",
            Some("8001 m chat vllm.service"),
        ),
        ("  vllm: {model: m}", Some("8000 m chat vllm.service")),
        ("  vllm: {model: m, host: '::'}", Some("8000 m chat vllm.service [::1]")),
        (
            "  vllm: {model: m, host: 10.0.0.5}",
            Some("8000 m chat vllm.service 10.0.0.5"),
        ),
        (
            "  vllm: {model: m, servedName: \"it's $x\", modelType: embedding}",
            Some("8000 it's $x embedding vllm.service"),
        ),
        (
            "  features: [{name: docker}]\n  vllm: {model: m}\n  health: {readiness: {exec: {command: [own]}}}",
            Some("own"),
        ),
    ] {
        let objects = with_lxc(spec);
        let web =
            "kind: PhoenixFeature\nmetadata: {name: web}\nspec: {install: 'true', health: {exec: {command: [web]}}}";
        testing::apply(&objects, web);
        let found = probe_of(&objects, &testing::lxc(&objects, "x"));
        let words = found.map(|p| match (p.exec, p.http_get) {
            (Some(exec), _) => match exec.command.iter().position(|w| w == "phoenix-probe") {
                Some(program) => exec.command[program + 1..].join(" "),
                None => exec.command.join(" "),
            },
            (_, Some(get)) => format!("{} {}", get.path.unwrap(), get.port),
            _ => panic!("{spec}"),
        });
        assert_eq!(words.as_deref(), want, "{spec}");
    }
}

#[test]
fn a_vllm_server_that_worked_has_a_minute() {
    let objects = with_lxc("  vllm: {model: m}");
    let found = probe_of(&objects, &testing::lxc(&objects, "x")).unwrap();
    assert_eq!((found.period_seconds, found.failure_threshold), (Some(10), Some(6)));
}

#[test]
fn values_are_arguments_and_never_part_of_a_shells_text() {
    for (probe, want) in [
        ("exec: {command: [sh, -c, 'exit 1']}", &["sh", "-c", "exit 1"][..]),
        (
            "httpGet: {port: 80}",
            &[
                "phoenix-probe",
                "http://127.0.0.1:80/",
                "1",
                "127.0.0.1",
                "80",
                "/",
                "http",
            ],
        ),
        (
            "httpGet: {port: 8443, scheme: HTTPS, host: a.b, path: '/x y?a=1&b=\"$(id)#'}\ntimeoutSeconds: 7",
            &[
                "phoenix-probe",
                "https://a.b:8443/x%20y?a=1&b=%22$(id)%23",
                "7",
                "a.b",
                "8443",
                "/x%20y?a=1&b=%22$(id)%23",
                "https",
            ],
        ),
        (
            "httpGet: {port: 80, path: health, host: '::1'}",
            &[
                "phoenix-probe",
                "http://[::1]:80/health",
                "1",
                "::1",
                "80",
                "/health",
                "http",
            ],
        ),
        ("tcpSocket: {port: 22}", &["phoenix-probe", "127.0.0.1", "22", "1"]),
        (
            "tcpSocket: {port: 22, host: db}\ntimeoutSeconds: 3",
            &["phoenix-probe", "db", "22", "3"],
        ),
        ("periodSeconds: 1", &["/bin/false"]),
    ] {
        let probe: Probe = serde_saphyr::from_str(probe).unwrap();
        let command = probe_command(&probe);
        let shown = if command[0] == "/bin/sh" {
            &command[3..]
        } else {
            &command[..]
        };
        assert_eq!(shown, want);
        if command[0] == "/bin/sh" {
            assert_eq!(command[1], "-c");
            assert!(!command[2].contains("127.0.0.1") && !command[2].contains("$(id)"));
        }
    }
}
