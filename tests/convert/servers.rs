//! Model servers of the later legacy shape: `vllm_engine_config` with sections of vLLM's configuration classes.
//!
//! `later/` holds the containers that the real user's model servers are made of, as they were on two days.

use phoenix::convert::report::{Outcome, Severity};
use phoenix::convert::{Input, Output, Role};
use serde_json::{Map, Value, json};

use crate::support::*;

const LATER: [(&str, &str); 2] = [
    ("2025-10-08", include_str!("later/2025-10-08.json")),
    ("2025-11-25", include_str!("later/2025-11-25.json")),
];

/// Where each key of the real files goes.
const FIELDS: &[(&str, &str)] = &[
    ("model", "model"),
    ("trust_remote_code", "trustRemoteCode"),
    ("dtype", "dtype"),
    ("max_model_len", "maxModelLen"),
    ("quantization", "quantization"),
    ("gpu_memory_utilization", "gpuMemoryUtilization"),
    ("tensor_parallel_size", "tensorParallelSize"),
    ("port", "port"),
    ("served_model_name", "servedName"),
];

fn later(text: &str) -> Input {
    input("lxc.json", Role::Lxc, text)
}

/// The spec of the guest with this id, and its kind.
fn guest(output: &Output, id: i64) -> (String, Value) {
    let manifests = output.files.keys().map(|file| manifest(output, file));
    let found = manifests.filter_map(|m| {
        let spec = match m["kind"].as_str()? {
            "PhoenixTemplate" => m["spec"]["lxc"].clone(),
            _ => m["spec"].clone(),
        };
        (spec["vmid"] == id).then(|| (m["kind"].as_str().unwrap().to_owned(), spec))
    });
    let found: Vec<_> = found.collect();
    assert_eq!(found.len(), 1, "manifests of {id}");
    found[0].clone()
}

/// The block that an engine configuration becomes, beside a plain container.
fn block(config: Value) -> Value {
    spec(&server(config))["vllm"].clone()
}

fn server(config: Value) -> Output {
    container(json!({"features": ["vllm"], "vllm_engine_config": config}))
}

fn warnings(output: &Output) -> Vec<String> {
    let all = findings(output, Severity::Warning);
    let own = all
        .iter()
        .filter(|f| f.pointer.contains("vllm") || f.message.contains("vllm"));
    own.map(|f| f.message.clone()).collect()
}

#[test]
fn every_model_server_of_the_later_sets_is_written_as_the_file_says() {
    for (day, text) in LATER {
        let file: Value = serde_json::from_str(text).unwrap();
        let output = run(&[later(text)], &options());
        let mut servers = 0;
        for (id, config) in file["lxc_configs"].as_object().unwrap() {
            let Some(engine) = config.get("vllm_engine_config") else {
                continue;
            };
            let (kind, spec) = guest(&output, id.parse().unwrap());
            let mut wanted = Map::new();
            for (section, keys) in engine.as_object().unwrap() {
                for (key, value) in keys.as_object().unwrap() {
                    let pointer = format!("/lxc_configs/{id}/vllm_engine_config/{section}/{key}");
                    let Some((_, field)) = FIELDS.iter().find(|(k, _)| k == key) else {
                        assert_eq!((key.as_str(), value), ("host", &json!("0.0.0.0")), "{day} {id}");
                        assert_eq!(entry(&output, &pointer).outcome, Outcome::Defaulted);
                        continue;
                    };
                    wanted.insert((*field).to_owned(), value.clone());
                    let entry = entry(&output, &pointer);
                    assert_eq!(entry.outcome, Outcome::Mapped, "{day} {id} {key}");
                    assert!(
                        entry.target.as_ref().unwrap().ends_with(&format!("vllm.{field}")),
                        "{entry:?}"
                    );
                }
            }
            if id == "801" {
                wanted.insert("modelType".into(), json!("embedding"));
            }
            let found: Map<String, Value> = spec["vllm"].as_object().unwrap().clone();
            let sorted = |map: &Map<String, Value>| {
                let mut pairs: Vec<_> = map.iter().map(|(k, v)| (k.clone(), v.to_string())).collect();
                pairs.sort();
                pairs
            };
            assert_eq!(sorted(&found), sorted(&wanted), "{day} {id}");
            let features = spec["features"].as_array().unwrap();
            assert!(features.iter().any(|f| f["name"] == "vllm"), "{day} {id}: {features:?}");
            // 911 is what others are cloned from.
            let template = id == "911";
            assert_eq!(kind == "PhoenixTemplate", template, "{day} {id}");
            servers += 1;
        }
        assert_eq!(servers, if day == "2025-10-08" { 5 } else { 4 }, "{day}");
        assert_eq!(output.report.count(Severity::Error), 0, "{day}");
    }
}

#[test]
fn a_template_that_serves_a_model_is_told_of() {
    let output = run(&[later(LATER[0].1)], &options());
    let found = finding(&output, Severity::Warning, "it is a template and serves a model");
    assert!(found.message.starts_with("container 911"), "{found:?}");
    let uncloned = findings(&output, Severity::Info);
    let uncloned: Vec<_> = (uncloned
        .iter()
        .filter(|f| f.message.contains("so it becomes a PhoenixLXC")))
    .map(|f| f.pointer.as_str())
    .collect();
    assert_eq!(uncloned, ["/lxc_configs/910", "/lxc_configs/912"]);
    let flagged =
        container(json!({"is_template": true, "template_snapshot_name": "s", "vllm_engine_config": {"model": "m"}}));
    let template = manifest(&flagged, "phoenixtemplate-one.yaml");
    assert_eq!(
        template["spec"]["lxc"]["vllm"],
        json!({"model": "m"}),
        "is_template is plain"
    );
}

#[test]
fn keys_count_wherever_they_stand_and_however_they_are_spelled() {
    let wanted = json!({"model": "org/m", "servedName": "m", "quantization": "fp8", "maxModelLen": 4096,
        "gpuMemoryUtilization": 0.5, "tensorParallelSize": 2, "dtype": "float16", "port": 8001, "trustRemoteCode": true});
    let flat = json!({"model": "org/m", "served_model_name": "m", "quantization": "fp8", "max_model_len": 4096,
        "gpu_memory_utilization": 0.5, "tensor_parallel_size": 2, "dtype": "float16", "port": 8001, "trust_remote_code": true});
    let camel = json!({"engine": {"modelConfig": {"model": "org/m", "servedModelName": ["m"], "maxModelLen": "4096", "dtype": "float16"},
        "cache-config": {"GPU_MEMORY_UTILIZATION": "50%", "Quantization": "fp8"}},
        "parallel_config": {"tensor-parallel-size": 2.0}, "ServerConfig": {"Port": "8001", "--trust-remote-code": "yes"}});
    let dotted = json!({"ModelConfig.model": "org/m", "ModelConfig.served_model_name": "m", "CacheConfig.quantization": "fp8",
        "ModelConfig.max_model_len": 4096.0, "CacheConfig.gpu_memory_utilization": 0.5, "ParallelConfig.tp": "2",
        "ModelConfig.dtype": "float16", "ServerConfig.port": 8001, "ModelConfig.trust_remote_code": 1});
    let text = json!(flat.to_string());
    let list = json!([{"ModelConfig": {"model": "org/m", "served_model_name": "m", "max_model_len": 4096}}, {"ModelConfig": camel["engine"]["modelConfig"],
        "Other": {"quantization": "fp8", "gpu_memory_utilization": 0.5, "tensor_parallel_size": 2, "port": 8001, "trust_remote_code": true}}]);
    let line = json!(
        "--model org/m --served-model-name m --quantization=fp8 --max-model-len 4096 --gpu-memory-utilization 0.5 -tp 2 --dtype float16 --port 8001 --trust-remote-code"
    );
    for config in [flat.clone(), camel, dotted, text.clone(), list, line] {
        let output = server(config.clone());
        assert_eq!(spec(&output)["vllm"], wanted, "{config}");
        assert_eq!(warnings(&output), [""; 0], "{config}");
        assert_eq!(output.report.unknown_keys().count(), 0, "{config}");
    }
    for (key, config) in [
        ("vllm_engine_config_json", text),
        ("vllmEngineConfig", flat.clone()),
        ("vLLMEngineConfig", flat.clone()),
        ("vllm_config", flat.clone()),
        ("vllm", flat.clone()),
        ("engine_config", flat.clone()),
        (
            "vllm_engine_args",
            json!([
                "--model",
                "org/m",
                "--served-model-name",
                "m",
                "-q",
                "fp8",
                "--max-model-len",
                4096,
                "--gpu-memory-utilization",
                0.5,
                "--tensor-parallel-size=2",
                "--dtype",
                "float16",
                "--port",
                "8001",
                "--trust-remote-code"
            ]),
        ),
    ] {
        let output = container(json!({"features": ["vllm"], (key): config}));
        assert_eq!(spec(&output)["vllm"], wanted, "{key}");
        assert_eq!(warnings(&output), [""; 0], "{key}");
    }
}

#[test]
fn what_is_not_set_is_left_out() {
    let output = server(
        json!({"ModelConfig": {"model": "m", "quantization": null, "dtype": "", "max_model_len": "None", "revision": null},
        "CacheConfig": {}, "ParallelConfig": null, "SchedulerConfig": [], "ServerConfig": {"served_model_name": [], "api_key": null, "host": "0.0.0.0"}}),
    );
    assert_eq!(spec(&output)["vllm"], json!({"model": "m"}));
    assert_eq!(warnings(&output), [""; 0]);
    for leaf in [
        "ModelConfig/quantization",
        "ModelConfig/max_model_len",
        "CacheConfig",
        "ParallelConfig",
        "SchedulerConfig",
        "ServerConfig/api_key",
    ] {
        assert_eq!(
            of(&output, &format!("vllm_engine_config/{leaf}")).outcome,
            Outcome::Defaulted,
            "{leaf}"
        );
    }
}

#[test]
fn what_has_no_field_becomes_an_argument_where_vllm_has_the_option() {
    let output = server(json!({
        "ModelConfig": {"model": "m", "tokenizer_mode": "auto", "enforce_eager": true, "skip_tokenizer_init": false, "hf_overrides": {"a": [1]}},
        "CacheConfig": {"cache_dtype": "fp8", "enable_prefix_caching": false, "swap_space": 4.0},
        "SchedulerConfig": {"max_num_seqs": 256.0, "enable_chunked_prefill": "yes"},
        "LoRAConfig": {"lora_modules": ["a=/a", {"name": "b"}]},
        "CompilationConfig": {"level": 3},
        "ServerConfig": {"host": "::", "allowed_origins": ["*"]},
    }));
    assert_eq!(warnings(&output), [""; 0]);
    assert_eq!(
        spec(&output)["vllm"]["extraArgs"],
        json!([
            "--tokenizer-mode",
            "auto",
            "--enforce-eager",
            "--hf-overrides",
            "{\"a\":[1]}",
            "--kv-cache-dtype",
            "fp8",
            "--no-enable-prefix-caching",
            "--swap-space",
            "4.0",
            "--max-num-seqs",
            "256",
            "--enable-chunked-prefill",
            "--lora-modules",
            "a=/a",
            "{\"name\":\"b\"}",
            "--compilation-config",
            "{\"level\":3}",
            "--host",
            "::",
            "--allowed-origins",
            "[\"*\"]"
        ])
    );
    let target = |leaf: &str| {
        of(&output, &format!("vllm_engine_config/{leaf}"))
            .target
            .clone()
            .unwrap()
    };
    assert!(target("LoRAConfig/lora_modules/0").ends_with("extraArgs[14]"));
    assert!(target("LoRAConfig/lora_modules/1/name").ends_with("extraArgs[15]"));
    assert!(target("CompilationConfig/level").ends_with("extraArgs[17]"));
    assert_eq!(
        of(&output, "vllm_engine_config/ModelConfig/skip_tokenizer_init").outcome,
        Outcome::Defaulted
    );

    let names = server(json!({"model": "m", "served_model_name": ["a", "b"], "max_model_len": "auto"}));
    let wanted = json!({"model": "m", "servedName": "a", "extraArgs": ["--served-model-name", "a", "b", "--max-model-len", "auto"]});
    assert_eq!(spec(&names)["vllm"], wanted);
    assert_eq!(block(json!({"model": "m", "max_model_len": "8k"}))["maxModelLen"], 8000);
    let loose = container(json!({"features": ["vllm"], "vllm_model": "m", "vllm_max_num_seqs": 4}));
    assert_eq!(spec(&loose)["vllm"]["extraArgs"], json!(["--max-num-seqs", "4"]));
}

#[test]
fn what_vllm_does_not_take_is_a_finding_that_says_what_to_do() {
    let cases = [
        (
            json!({"DeviceConfig": {"device": "cuda"}}),
            "vLLM 0.15.1 has no option --device",
        ),
        (json!({"max_num_seqz": 4}), "did you mean --max-num-seqs?"),
        (
            json!({"kv_cache_dtype": "int3"}),
            "vLLM 0.15.1 takes no \"int3\" for --kv-cache-dtype",
        ),
        (json!({"max_num_seqs": "many"}), "it takes a whole number"),
        (json!({"enforce_eager": "perhaps"}), "is not true or false"),
        (json!({"tokenizer": true}), "is not a value"),
        (json!({"middleware": ["a", "b"]}), "is not one value"),
        (
            json!({"gpu_memory_utilization": 1.5}),
            "vllm_engine_config.gpu_memory_utilization 1.5 is not a number from 0.01 to 1",
        ),
        (
            json!({"tensor_parallel_size": true}),
            "is not a whole number from 1 to 64",
        ),
        (json!({"port": {"http": 1}}), "is not a port"),
        (json!({"served_model_name": {"a": 1}}), "is not a name"),
        (json!({"task": "classify"}), "is not chat or embedding"),
        (
            json!({"ServerConfig": "8000"}),
            "vllm_engine_config.ServerConfig \"8000\" is not an object of settings",
        ),
        (json!({"": "x"}), "has no option"),
        (json!({"max": 1}), "has no option --max:"),
        (json!({"host": "10.0.0.5"}), "is asked at 127.0.0.1"),
    ];
    for (config, words) in cases {
        let mut all = json!({"model": "m"});
        for (key, value) in config.as_object().unwrap() {
            all[key] = value.clone();
        }
        let output = server(all);
        let found = finding(&output, Severity::Warning, words);
        assert!(
            !found.fix.is_empty() && found.pointer.starts_with("/lxc_configs/950/vllm_engine_config"),
            "{found:?}"
        );
        assert_eq!(output.report.unknown_keys().count(), 0, "{config}");
        if !words.contains("127.0.0.1") {
            assert_eq!(spec(&output)["vllm"], json!({"model": "m"}), "{config}");
        }
    }
    let odd = server(json!({"model": "m", "quantization": "awq_marlim"}));
    assert_eq!(spec(&odd)["vllm"]["quantization"], "awq_marlim", "as the file says");
    finding(&odd, Severity::Warning, "did you mean awq_marlin?");
    let broken = container(json!({"vllm_model": "m", "vllm_engine_config_json": "{\"model\": "}));
    finding(&broken, Severity::Warning, "vllm_engine_config_json is not JSON");
}

#[test]
fn the_newest_shape_counts_and_a_contradiction_is_told() {
    let output = container(json!({
        "features": ["vllm"], "gpu_assignment": "0",
        "vllm_model": "old", "vllm_port": 8000, "vllm_dtype": "auto", "vllm_gpu_memory_utilization": 0.50, "vllm_quantization": "awq",
        "vllm_args": ["--port", "8002", "--seed", "1"],
        "vllm_engine_config": {"ModelConfig": {"model": "new", "quantization": "fp8"}, "CacheConfig": {"quantization": "awq", "gpu_memory_utilization": 0.5},
            "DraftConfig": {"model": "draft", "seed": 2}},
    }));
    assert_eq!(
        spec(&output)["vllm"],
        json!({"model": "new", "port": 8000, "dtype": "auto", "gpuMemoryUtilization": 0.5, "quantization": "fp8", "extraArgs": ["--seed", "2"]})
    );
    assert_eq!(
        warnings(&output),
        [
            "container 950: --port 8002 contradicts port 8000, which counts",
            "container 950: --seed 1 contradicts --seed 2, which counts",
            "container 950: vllm_engine_config.CacheConfig.quantization awq contradicts quantization fp8, which counts",
            "container 950: vllm_engine_config.DraftConfig.model draft contradicts model new, which counts",
            "container 950: vllm_model old contradicts model new, which counts",
            "container 950: vllm_quantization awq contradicts quantization fp8, which counts",
        ]
    );
    let equal = of(&output, "vllm_gpu_memory_utilization");
    assert_eq!(
        equal.target.as_deref(),
        Some("PhoenixLXC/one spec.vllm.gpuMemoryUtilization")
    );
    let before = json!({"model": "m", "DraftConfig": {"model": "draft"}});
    let reversed = json!({"DraftConfig": {"model": "draft"}, "ModelConfig": {"model": "m"}});
    for config in [before, reversed] {
        assert_eq!(block(config), json!({"model": "m"}));
    }
    let shared = containers(json!({
        "950": plain(json!({"gpu_assignment": "0", "vllm_engine_config": {"model": "m", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.6}})),
        "951": plain(json!({"name": "two", "gpu_assignment": 0, "vllm_engine_config_json": "{\"model\": \"m\", \"gpu_memory_utilization\": 0.5}"})),
    }));
    let given = finding(&shared, Severity::Warning, "GPU 0 is given out 1.10 times");
    assert_eq!(given.pointer, "/lxc_configs/951/vllm_engine_config_json");
    let parallel = finding(&shared, Severity::Warning, "tensor parallelism over 2 GPUs");
    assert_eq!(
        parallel.pointer,
        "/lxc_configs/950/vllm_engine_config/tensor_parallel_size"
    );
}

#[test]
fn embedding_models_are_written_as_such() {
    let kinds = [
        (json!({"model": "org/granite-embedding-r2"}), json!("embedding")),
        (
            json!({"model": "org/m", "ModelConfig": {"task": "embed"}}),
            json!("embedding"),
        ),
        (json!({"model": "org/m", "runner": "pooling"}), json!("embedding")),
        (json!({"model": "BAAI/bge-m3"}), json!("embedding")),
        (json!({"model": "intfloat/e5-mistral-7b-instruct"}), json!("embedding")),
        (
            json!({"model": "/models/x", "served_model_name": "my-embeddings"}),
            json!("embedding"),
        ),
        (json!({"model": "BAAI/bge-reranker-v2"}), Value::Null),
        (json!({"model": "org/m", "task": "generate"}), json!("chat")),
        (json!({"model": "org/m", "task": "auto"}), Value::Null),
        (json!({"model": "org/nomic-embed", "runner": "generate"}), Value::Null),
    ];
    for (config, wanted) in kinds {
        assert_eq!(block(config.clone())["modelType"], wanted, "{config}");
    }
    finding(
        &server(json!({"model": "org/nomic-embed"})),
        Severity::Info,
        "modelType: embedding is written",
    );
}

#[test]
fn the_environment_of_a_server_is_kept_without_its_secrets() {
    let forms = [
        json!({"HF_HOME": "/models/", "VLLM_LOGGING_LEVEL": "DEBUG", "HF_TOKEN": "hunter2", "EMPTY": ""}),
        json!([
            "HF_HOME=/models/",
            "VLLM_LOGGING_LEVEL=DEBUG",
            "HF_TOKEN=hunter2",
            "EMPTY="
        ]),
        json!([{"name": "HF_HOME", "value": "/models/"}, {"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}, {"name": "HF_TOKEN", "value": "hunter2"}, {"name": "EMPTY", "value": null}]),
        json!("HF_HOME=/models/ VLLM_LOGGING_LEVEL=DEBUG HF_TOKEN=hunter2 EMPTY="),
    ];
    for form in forms {
        let guest = plain(json!({"features": ["vllm"], "application_script": "run.sh",
            "vllm_engine_config": {"model": "m", "ServerConfig": {"environment": form}}}));
        let text = json!({"lxc_configs": {"950": guest}}).to_string();
        let output = run(&[input("l.json", Role::Lxc, text)], &folder(&[("run.sh", "true\n")]));
        assert_eq!(
            spec(&output)["vllm"],
            json!({"model": "m", "cachePath": "/models", "environment": [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}]}),
            "{form}"
        );
        let token = finding(&output, Severity::Warning, "holds HF_TOKEN, which is not carried");
        assert!(token.fix.contains("tokenSecretRef"));
        assert!(
            !serde_json::to_string(&output.report).unwrap().contains("hunter2"),
            "{form}"
        );
    }
}

#[test]
fn a_variable_that_no_server_can_have_is_a_finding() {
    let too_many: Map<String, Value> = (0..65).map(|i| (format!("X{i}"), json!("1"))).collect();
    let cases = [
        (json!({"": "1"}), "\"\" is no name of an environment variable"),
        (json!({"1A": "1"}), "\"1A\" is no name of an environment variable"),
        (json!({"A-B": "1"}), "\"A-B\" is no name of an environment variable"),
        (json!({("A".repeat(129)): "1"}), "is no name of an environment variable"),
        (
            json!({"A": "x".repeat(32_769)}),
            "the value of A is longer than 32768 characters",
        ),
        (json!(too_many), "is more than the 64 variables that a server takes"),
    ];
    for (variables, words) in cases {
        let guest = plain(json!({"features": ["vllm"], "application_script": "run.sh",
            "vllm_engine_config": {"model": "m", "ServerConfig": {"environment": variables}}}));
        let text = json!({"lxc_configs": {"950": guest}}).to_string();
        let output = run(&[input("l.json", Role::Lxc, text)], &folder(&[("run.sh", "true\n")]));
        finding(&output, Severity::Warning, words);
        let carried = spec(&output)["vllm"]["environment"].as_array().map_or(0, Vec::len);
        assert_eq!(
            carried,
            if variables.as_object().unwrap().len() > 1 {
                64
            } else {
                0
            },
            "{words}"
        );
    }
}

#[test]
fn secrets_of_a_server_are_not_repeated() {
    let within = json!({"model": "m", "ServerConfig": {"api_key": "hunter2", "ssl_keyfile_password": "hunter2", "auth_token": ["hunter2"], "port": 8001},
        "LoadConfig": {"model_loader_extra_config": {"token": "hunter2"}}, "max_tokens": 4});
    let configs = [
        json!({"vllm_engine_config": within}),
        json!({"vllm_engine_config_json": within.to_string()}),
        json!({"vllm_engine_config": {"model": "m", "port": 8001, "extra_args": ["--api_key", "hunter2", "hunter2", "--api-k=hunter2"]}}),
        json!({"vllm_model": "m", "vllm_port": 8001, "vllm_api_key": "hunter2", "vllm_args": ["--api-key", "hunter2", "hunter2"]}),
        json!({"vllm_model": "m", "vllm_port": 8001, "vllm_args": "--api-key hunter2 --seed 1"}),
        json!({"vllm_model": "m", "vllm_port": 8001, "vllm_args": {"api_key": "hunter2"}}),
        json!({"vllm_model": "m", "vllm_port": 8001, "vllm_args": "--api-key 'hunter2"}),
    ];
    for mut config in configs {
        config["application_script"] = json!("run.sh");
        let text = json!({"lxc_configs": {"950": plain(config.clone())}}).to_string();
        let output = run(&[input("l.json", Role::Lxc, text)], &folder(&[("run.sh", "true\n")]));
        assert_eq!(spec(&output)["vllm"]["port"], 8001, "{config}");
        assert!(
            !serde_json::to_string(&output.report).unwrap().contains("hunter2"),
            "{config}"
        );
        let broken = config["vllm_args"].as_str().is_some_and(|args| args.contains('\''));
        let leaks = output.files.iter().filter(|(_, text)| text.contains("hunter2"));
        let leaks: Vec<&String> = leaks.map(|(file, _)| file).collect();
        assert!(leaks.is_empty() || broken, "{leaks:?} for {config}");
        assert!(
            findings(&output, Severity::Warning)
                .iter()
                .any(|f| f.message.contains("carried") || broken)
        );
    }
}

#[test]
fn a_container_that_runs_a_model_and_gets_no_server_is_an_error() {
    let cases = [
        (
            json!({"vllm_engine_config": {"ServerConfig": {"port": 8000}}}),
            "it has vllm_engine_config",
        ),
        (
            json!({"vllm_engine_config": {"ModelConfig": {"model": "-x"}}}),
            "it has vllm_engine_config",
        ),
        (
            json!({"vllm_engine_config_json": "{"}),
            "it has vllm_engine_config_json",
        ),
        (json!({"vllm_engine_config": "text"}), "it has vllm_engine_config"),
        (json!({"vllm_port": 8000}), "it has vllm_port"),
        (json!({"vllm_model": {"a": 1}}), "it has vllm_model"),
        (json!({"features": ["nvidia", "vllm"]}), "it has the feature vllm"),
        (
            json!({"features": "vllm", "vllm_engine_config": {"ModelConfig": {"model": null}}}),
            "it has the feature vllm",
        ),
        (
            json!({"features": ["vllm"], "start_at_boot": false, "ports": ["8000:8000"]}),
            "it has the feature vllm",
        ),
        (
            json!({"application_script": "bin/phoenix_hypervisor_lxc_vllm.sh"}),
            "its application script starts vLLM",
        ),
        (
            json!({"application_script": "start.sh"}),
            "its application script starts vLLM",
        ),
    ];
    let scripts = folder(&[
        (
            "x/start.sh",
            "#!/bin/sh\n# vllm serve\nexec /opt/vllm/bin/vllm serve m\n",
        ),
        ("proxy.sh", "# vllm serve x\necho vllm\n"),
    ]);
    for (config, why) in cases {
        let text = json!({"lxc_configs": {"950": plain(config.clone())}}).to_string();
        let output = run(&[input("l.json", Role::Lxc, text)], &scripts);
        assert_eq!(spec(&output).get("vllm"), None, "{config}");
        let found = finding(&output, Severity::Error, "no model server is written");
        assert!(
            found.message.contains(why) && found.message.starts_with("container 950"),
            "{config}: {found:?}"
        );
        assert_eq!(output.report.unknown_keys().count(), 0, "{config}");
    }
    let none = [
        json!({"vllm_engine_config": {}}),
        json!({"vllm_engine_config": {"ModelConfig": {"model": ""}, "CacheConfig": null}}),
        json!({"vllm": [{"name": "t", "path": "t.sh"}]}),
        json!({"application_script": "proxy.sh"}),
        // To try the feature, as one guest of the real fleet does.
        json!({"features": ["vllm"], "start_at_boot": false}),
        json!({"features": ["vllm"], "template_snapshot_name": "s", "application_script": "start.sh"}),
    ];
    for config in none {
        let text = json!({"lxc_configs": {"950": plain(config.clone())}}).to_string();
        let output = run(&[input("l.json", Role::Lxc, text)], &scripts);
        assert_eq!(output.report.count(Severity::Error), 0, "{config}");
    }
}

#[test]
fn a_lone_word_that_holds_a_secret_is_not_carried() {
    let guest = plain(
        json!({"vllm_model": "m", "features": ["vllm"], "vllm_args": ["api_key=hunter2", "a=b"], "application_script": "run.sh"}),
    );
    let text = json!({"lxc_configs": {"950": guest}}).to_string();
    let output = run(&[input("l.json", Role::Lxc, text)], &folder(&[("run.sh", "true\n")]));
    assert!(!output.files.values().any(|f| f.contains("hunter2")));
    assert_eq!(spec(&output)["vllm"], json!({"model": "m", "extraArgs": ["a=b"]}));
    finding(
        &output,
        Severity::Warning,
        "vllm_args hold --api_key, which is not carried",
    );
}
