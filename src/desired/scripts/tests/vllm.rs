//! vLLM: each parameter, quoting for systemd, the feature it needs.

use proptest::prelude::*;

use crate::desired::ScriptRole;

use super::*;

/// Not the version whose options are known: arguments are passed as they are.
const FEATURES: &str = "  features: [{name: vllm, parameters: {version: 0.16.0}}]\n";

fn server(fields: &str) -> Result<Vec<Script>, Blocked> {
    lxc_scripts(&with_lxc(&format!("{FEATURES}  vllm: {{{fields}}}")))
}

fn unit(script: &Script) -> &str {
    &file(script, "/run/phoenix/vllm/vllm.service").content
}

fn command(script: &Script) -> &str {
    let line = unit(script).lines().find_map(|l| l.strip_prefix("ExecStart="));
    line.unwrap()
}

/// Splits a command line as systemd.service(5) and systemd.syntax(7) say: words in double quotes with C escapes, then
/// `%%` and `$$`.
fn systemd_words(line: &str) -> Vec<String> {
    let mut words = vec![];
    let mut chars = line.chars().peekable();
    while let Some(&first) = chars.peek() {
        if first == ' ' {
            chars.next();
            continue;
        }
        let quoted = first == '"';
        if quoted {
            chars.next();
        }
        let mut word = String::new();
        loop {
            match chars.next() {
                None => {
                    assert!(!quoted, "open quote in {line}");
                    break;
                }
                Some('"') if quoted => break,
                Some(' ') if !quoted => break,
                Some('\\') => match chars.next().unwrap() {
                    'n' => word.push('\n'),
                    'x' => {
                        let code: String = chars.by_ref().take(2).collect();
                        word.push(u8::from_str_radix(&code, 16).unwrap() as char);
                    }
                    c @ ('"' | '\\') => word.push(c),
                    c => panic!("escape {c} in {line}"),
                },
                Some(c @ ('%' | '$')) => {
                    assert_eq!(chars.next(), Some(c), "a lone {c} in {line}");
                    word.push(c);
                }
                Some(c) => {
                    assert!(!c.is_ascii_control(), "a control character in {line:?}");
                    word.push(c);
                }
            }
        }
        words.push(word);
    }
    words
}

#[test]
fn each_parameter_becomes_its_argument() {
    for (fields, want) in [
        ("", "serve m --host 0.0.0.0 --port 8000"),
        (
            "servedName: qwen",
            "serve m --host 0.0.0.0 --port 8000 --served-model-name qwen",
        ),
        (
            "quantization: awq_marlin",
            "serve m --host 0.0.0.0 --port 8000 --quantization awq_marlin",
        ),
        (
            "maxModelLen: 32768",
            "serve m --host 0.0.0.0 --port 8000 --max-model-len 32768",
        ),
        (
            "gpuMemoryUtilization: 0.85",
            "serve m --host 0.0.0.0 --port 8000 --gpu-memory-utilization 0.85",
        ),
        (
            "tensorParallelSize: 2",
            "serve m --host 0.0.0.0 --port 8000 --tensor-parallel-size 2",
        ),
        ("host: '::1'", "serve m --host ::1 --port 8000"),
        (
            "sleepMode: true",
            "serve m --host 0.0.0.0 --port 8000 --enable-sleep-mode",
        ),
        ("sleepMode: false", "serve m --host 0.0.0.0 --port 8000"),
        ("dtype: float16", "serve m --host 0.0.0.0 --port 8000 --dtype float16"),
        ("port: 8001", "serve m --host 0.0.0.0 --port 8001"),
        ("modelType: chat", "serve m --host 0.0.0.0 --port 8000"),
        (
            "modelType: embedding",
            "serve m --host 0.0.0.0 --port 8000 --runner pooling",
        ),
        (
            "trustRemoteCode: true",
            "serve m --host 0.0.0.0 --port 8000 --trust-remote-code",
        ),
        ("trustRemoteCode: false", "serve m --host 0.0.0.0 --port 8000"),
        (
            "extraArgs: [--max-num-seqs, '1', --port, '9']",
            "serve m --host 0.0.0.0 --port 8000 --max-num-seqs 1 --port 9",
        ),
        (
            "extraArgs: ['{\"a\": \"b\\c\"}', '100%', '$HOME', ';', '', \"it's\", \"a\\nb\"]",
            r#"serve m --host 0.0.0.0 --port 8000 "{\"a\": \"b\\c\"}" "100%%" "$$HOME" ";" "" "it's" "a\nb""#,
        ),
        (
            "servedName: a, quantization: fp8, maxModelLen: 1, gpuMemoryUtilization: 1.0, tensorParallelSize: 1, \
             dtype: auto, port: 80, modelType: embedding, trustRemoteCode: true, extraArgs: [x]",
            "serve m --host 0.0.0.0 --port 80 --served-model-name a --runner pooling --quantization fp8 --dtype auto \
             --max-model-len 1 --gpu-memory-utilization 1 --tensor-parallel-size 1 --trust-remote-code x",
        ),
    ] {
        let fields = if fields.is_empty() {
            "model: m".to_string()
        } else {
            format!("model: m, {fields}")
        };
        let script = find(server(&fields).unwrap(), "vllm");
        assert_eq!(command(&script), format!("/opt/vllm/bin/vllm {want}"), "{fields}");
    }
}

#[test]
fn a_share_of_the_gpus_is_what_vllm_may_take() {
    let with_gpus = |gpus: &str, fields: &str| {
        lxc_scripts(&with_lxc(&format!(
            "{FEATURES}  gpus: {gpus}\n  vllm: {{model: m{fields}}}"
        )))
    };
    let script = find(
        with_gpus("[{index: 0, vramShare: 0.4}, {index: 1, vramShare: 0.3}]", "").unwrap(),
        "vllm",
    );
    assert!(
        command(&script).ends_with("--gpu-memory-utilization 0.3"),
        "{}",
        command(&script)
    );
    let given = ", gpuMemoryUtilization: 0.25";
    let script = find(with_gpus("[{index: 0, vramShare: 0.4}]", given).unwrap(), "vllm");
    assert!(
        command(&script).ends_with("--gpu-memory-utilization 0.25"),
        "{}",
        command(&script)
    );
}

#[test]
fn the_unit_reads_its_environment_and_comes_back() {
    let script = find(server("model: Qwen/Qwen2.5-7B-Instruct-AWQ").unwrap(), "vllm");
    insta::assert_snapshot!(unit(&script), @r"
    # Written by Phoenix from the object's vllm block; changes made here are lost.
    [Unit]
    Description=vLLM model server
    Wants=network-online.target
    After=network-online.target
    StartLimitIntervalSec=0

    [Service]
    Type=exec
    Environment=HOME=/root
    Environment=PATH=/opt/vllm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    EnvironmentFile=-/etc/phoenix/proxy.env
    EnvironmentFile=/etc/phoenix/vllm.env
    ExecStartPre=-/bin/sh /etc/phoenix/vllm-pause
    ExecStart=/opt/vllm/bin/vllm serve Qwen/Qwen2.5-7B-Instruct-AWQ --host 0.0.0.0 --port 8000
    Restart=always
    RestartSec=10
    TimeoutStartSec=400
    TimeoutStopSec=60

    [Install]
    WantedBy=multi-user.target
    ");
    assert_eq!(script.role, ScriptRole::ModelServer);
    assert!(script.body.starts_with("#!/bin/sh\n"));
    let modes: Vec<&str> = script.files.iter().map(|f| f.mode.as_str()).collect();
    assert_eq!(modes, ["0644", "0644", "0600"]);
}

#[test]
fn folder_and_token_are_in_the_environment_file_only() {
    let fields = "model: m, cachePath: '/my \"models\" $x`', tokenSecretRef: {name: keys, key: token}";
    let script = find(server(fields).unwrap(), "vllm");
    let environment = &file(&script, "/run/phoenix/vllm/vllm.env").content;
    let lines: Vec<&str> = environment.lines().skip(1).collect();
    assert_eq!(lines, [r#"HF_HOME="/my \"models\" \$x\`""#, r#"HF_TOKEN="hf_secret""#]);
    assert!(!unit(&script).contains("hf_secret"));
    assert!(!script.body.contains("hf_secret"));
    assert_eq!(script.environment["PHOENIX_VLLM_CACHE_PATH"], "/my \"models\" $x`");
    assert!(!format!("{script:?}").contains("hf_secret"));
    let bare = find(server("model: m").unwrap(), "vllm");
    assert_eq!(file(&bare, "/run/phoenix/vllm/vllm.env").content.lines().count(), 1);
    assert_ne!(bare.hash, script.hash);
}

#[test]
fn the_key_of_clients_is_in_the_environment_file_only_and_a_new_one_restarts_the_server() {
    let with_key = |key: &str| {
        let objects = with_lxc(&format!(
            "{FEATURES}  vllm: {{model: m, apiKeySecretRef: {{name: api, key: key}}}}"
        ));
        let secret = format!("kind: Secret\nmetadata: {{name: api}}\nstringData: {{key: {key:?}}}");
        testing::apply(&objects, &secret);
        lxc_scripts(&objects)
    };
    let script = find(with_key("sk-one\n").unwrap(), "vllm");
    let environment = &file(&script, "/run/phoenix/vllm/vllm.env").content;
    assert_eq!(environment.lines().nth(1), Some("VLLM_API_KEY=\"sk-one\""));
    assert!(!unit(&script).contains("sk-one") && !script.body.contains("sk-one"));
    assert!(!format!("{script:?}").contains("sk-one"));
    assert_ne!(find(with_key("sk-two").unwrap(), "vllm").hash, script.hash);
    for odd in ["two words", "quo'te\"", "dollar$", "ümlaut"] {
        let told = with_key(odd).unwrap_err().cause().message.clone();
        assert!(
            told.contains("spec.vllm.apiKeySecretRef") && told.contains("openssl rand"),
            "{told}"
        );
        assert!(!told.contains(odd), "{told}");
    }
    for (fields, words) in [
        (
            "extraArgs: [--api_k=x], apiKeySecretRef: {name: keys, key: token}",
            "--api-key of extraArgs",
        ),
        (
            "environment: [{name: VLLM_API_KEY, value: x}], apiKeySecretRef: {name: keys, key: token}",
            "environment[VLLM_API_KEY]",
        ),
        ("apiKeySecretRef: {name: keys, key: none}", "apiKeySecretRef"),
    ] {
        let told = server(&format!("model: m, {fields}"))
            .unwrap_err()
            .cause()
            .message
            .clone();
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn variables_of_the_server_are_in_the_environment_file_only() {
    let own = "{name: NCCL_P2P_DISABLE, value: \"1\"}, {name: KEY, secretKeyRef: {name: keys, key: token}}";
    let script = find(server(&format!("model: m, environment: [{own}]")).unwrap(), "vllm");
    let environment = &file(&script, "/run/phoenix/vllm/vllm.env").content;
    let end = environment.split_once('\n').unwrap().1;
    // A Secret's line break is part of its value, as it is in a container of Kubernetes.
    assert_eq!(end, "KEY=\"hf_secret\n\"\nNCCL_P2P_DISABLE=\"1\"\n");
    assert!(!unit(&script).contains("hf_secret") && !script.body.contains("hf_secret"));
    assert_ne!(find(server("model: m").unwrap(), "vllm").hash, script.hash);
    let twice = server("model: m, cachePath: /models, environment: [{name: HF_HOME, value: /x}]");
    let told = twice.unwrap_err().cause().message.clone();
    assert!(
        told.contains("environment[HF_HOME]") && told.contains("cachePath"),
        "{told}"
    );
}

#[test]
fn what_is_wrong_is_named_with_its_fix() {
    for (spec, reason, words) in [
        (
            "  vllm: {model: m}",
            Reason::InvalidSpec,
            "spec.vllm: vLLM is not installed in this guest: add {name: vllm} to spec.features",
        ),
        (
            "  features: [{name: docker}]\n  vllm: {model: m}",
            Reason::InvalidSpec,
            "add {name: vllm}",
        ),
        (
            "  features: [{name: vllm}]\n  vllm: {model: --x}",
            Reason::InvalidSpec,
            "spec.vllm.model: \"--x\" reads as an option",
        ),
        (
            "  features: [{name: vllm}]\n  vllm: {model: m, servedName: -x}",
            Reason::InvalidSpec,
            "spec.vllm.servedName: \"-x\" reads as an option: give another name",
        ),
        (
            "  vllm: {model: m, quantization: -q, extraArgs: [a]}\n  features: [{name: vllm, parameters: {version: 0.16.0}}]",
            Reason::InvalidSpec,
            "spec.vllm.quantization: \"-q\" reads as an option",
        ),
        (
            "  features: [{name: vllm}]\n  vllm: {model: m, extraArgs: [\"a\\0\"]}",
            Reason::InvalidSpec,
            "spec.vllm.extraArgs[0]: the value holds a NUL character",
        ),
        (
            "  features: [{name: vllm}]\n  vllm: {model: m, tokenSecretRef: {name: keys, key: hub}}",
            Reason::SecretNotFound,
            "spec.vllm.tokenSecretRef: Secret ai/keys has no key \"hub\"",
        ),
        (
            "  features: [{name: vllm}]\n  vllm: {model: m, tokenSecretRef: {name: keys, key: broken}}",
            Reason::InvalidSpec,
            "spec.vllm.tokenSecretRef: key \"broken\" of Secret ai/keys holds blanks",
        ),
    ] {
        let (found, message) = blocked(spec);
        assert_eq!(found, reason, "{spec}: {message}");
        assert!(message.contains(words), "{spec}: {message}");
        assert!(!message.contains("hf secret"), "{message}");
    }
}

#[test]
fn the_feature_may_come_from_a_template_or_under_an_alias() {
    let templates = "kind: PhoenixTemplate
metadata: {name: base}
spec:
  hypervisorRef: {name: pve, namespace: infra}
  lxc:
    features: [{name: gone}, {name: inference}]
---
kind: PhoenixTemplate
metadata: {name: middle}
spec:
  hypervisorRef: {name: pve, namespace: infra}
  lxc:
    source: {templateRef: {name: base}}
---
kind: PhoenixFeature
metadata: {name: inference}
spec: {requires: [vllm], install: 'true'}
---
kind: PhoenixFeature
metadata: {name: vllm-nightly}
spec: {aliases: [vllm], install: 'true'}
";
    let objects = with_lxc("  source: {templateRef: {name: middle}}\n  vllm: {model: m}");
    testing::apply(&objects, templates);
    assert_eq!(ids(&lxc_scripts(&objects).unwrap()), ["vllm"]);
    let objects = with_lxc("  features: [{name: vllm-nightly}]\n  vllm: {model: m}");
    testing::apply(&objects, templates);
    assert_eq!(ids(&lxc_scripts(&objects).unwrap()), ["feature-vllm-nightly", "vllm"]);
    // A lineage that bites its tail ends the search.
    let objects = with_lxc("  source: {templateRef: {name: middle}}\n  vllm: {model: m}");
    let ring = templates.replace(
        "features: [{name: gone}, {name: inference}]",
        "source: {templateRef: {name: middle}}",
    );
    testing::apply(&objects, &ring);
    assert!(lxc_scripts(&objects).is_err());
}

proptest! {
    #[test]
    fn any_argument_reaches_vllm_unchanged(arguments in prop::collection::vec("[^\\x00]{0,12}", 0..4)) {
        let mut object = testing::lxc(&with_lxc("  vllm: {model: m}"), "x");
        let GuestSpec::Lxc(spec) = &mut object.spec else { unreachable!() };
        spec.guest.vllm.as_mut().unwrap().extra_args = Some(arguments.clone());
        let server = spec.guest.vllm.clone().unwrap();
        let script = super::super::vllm::script(&object, &server, &MemoryObjects::new()).unwrap();
        let words = systemd_words(command(&script));
        prop_assert_eq!(&words[..7], &["/opt/vllm/bin/vllm", "serve", "m", "--host", "0.0.0.0", "--port", "8000"]);
        prop_assert_eq!(&words[7..], &arguments[..]);
    }
}
