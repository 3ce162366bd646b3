//! The options of `vllm serve`: what the file of them says, and what is found wrong by it.

use crate::crd::Vllm;
use crate::desired::scripts::vllm_flags::{Form, fault, form, version};

use super::*;

const FLAGS: &str = include_str!("../vllm_flags.txt");
const SHIPPED: &str = include_str!("../../../../config/features/vllm.yaml");
const FEATURE: &str = "  features: [{name: vllm}]\n";

fn lines() -> impl Iterator<Item = &'static str> {
    FLAGS
        .lines()
        .filter(|l| !l.starts_with('#') && !l.starts_with("version "))
}

#[test]
fn the_file_is_read_whole_and_is_of_the_version_that_is_installed() {
    let feature: crate::crd::PhoenixFeature = serde_saphyr::from_str(SHIPPED).unwrap();
    let parameters = feature.spec.parameters.unwrap();
    let installed = parameters.iter().find(|p| p.name == "version").unwrap();
    assert_eq!(installed.default.as_deref(), Some(version()));
    assert!(FLAGS.contains(&format!("tag v{}", version())));
    assert!(lines().count() > 200);
    for line in lines().filter(|l| !l.starts_with("--help")) {
        let parts: Vec<&str> = line.split(' ').collect();
        let names: Vec<&str> = parts[0].split(',').collect();
        assert!(names.iter().all(|n| n.starts_with('-')), "{line}");
        for name in names.into_iter().filter(|n| *n != "--model") {
            let value = parts.get(2).map(|kinds| match kinds.split('|').next().unwrap() {
                "<int>" | "<size>" | "<float>" => "1",
                "<json>" => "{}",
                "<text>" => "text",
                word => word,
            });
            let words: Vec<&str> = std::iter::once(name).chain(value).collect();
            assert_eq!(fault(&words), None, "{line}");
            let lacking = match parts[1] {
                "switch" => fault(&[name, "x"]),
                "optional" => continue,
                _ => fault(&[name]),
            };
            assert!(lacking.is_some(), "{line}");
        }
    }
}

#[test]
fn every_field_is_rendered_as_options_that_the_version_knows() {
    let fields: &[(&str, &[&str])] = &[
        ("servedName", &["qwen", "org/name with blanks"]),
        (
            "quantization",
            &["awq_marlin", "gptq", "fp8", "compressed-tensors", "AWQ"],
        ),
        ("maxModelLen", &["1", "32768", "100000000"]),
        ("gpuMemoryUtilization", &["0.01", "0.85", "1", "1.0"]),
        ("tensorParallelSize", &["1", "64"]),
        ("dtype", &["auto", "half", "float16", "bfloat16", "float", "float32"]),
        ("host", &["0.0.0.0", "'::'", "127.0.0.1"]),
        ("port", &["1", "65535"]),
        ("apiKeySecretRef", &["{name: keys, key: token}"]),
        ("sleepMode", &["true", "false"]),
        ("modelType", &["chat", "embedding"]),
        ("trustRemoteCode", &["true", "false"]),
        ("cachePath", &["/models"]),
        ("tokenSecretRef", &["{name: keys, key: token}"]),
        ("environment", &["[{name: HF_HUB_OFFLINE, value: \"1\"}]"]),
        ("extraArgs", &["[]", "[--max-num-seqs, '4']"]),
    ];
    // A field that is added to the block has to be added here.
    let schema = serde_json::to_value(schemars::schema_for!(Vllm)).unwrap();
    let mut known: Vec<&str> = schema["properties"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut tried: Vec<&str> = fields.iter().map(|(name, _)| *name).chain(["model"]).collect();
    known.sort_unstable();
    tried.sort_unstable();
    assert_eq!(known, tried);
    let mut all = String::new();
    for (name, values) in fields {
        for value in *values {
            let spec = format!("{FEATURE}  vllm: {{model: m, {name}: {value}}}");
            lxc_scripts(&with_lxc(&spec)).unwrap_or_else(|e| panic!("{spec}: {e:?}"));
        }
        all += &format!(", {name}: {}", values.last().unwrap());
    }
    lxc_scripts(&with_lxc(&format!("{FEATURE}  vllm: {{model: m{all}}}"))).unwrap();
}

/// Each verdict is that of the parser of vLLM 0.15.1 itself, on Python 3.11.
#[test]
fn words_are_judged_as_vllm_does() {
    for words in [
        &[][..],
        &["--enforce-eager"],
        &["--no-enable-prefix-caching"],
        &["--enable_prefix_caching"],
        &["--max-num-seqs", "16"],
        &["--max_num_seqs=16"],
        &["--max-num-s", "16"],
        &["--max-model-len", "32k"],
        &["--max-model-len", "-1"],
        &["--max-model-len", "auto"],
        &["-tp", "2"],
        &["-qawq"],
        &["-O3"],
        &["-O", "2"],
        &["-ep"],
        &["--kv-cache-dtype", "fp8_e4m3"],
        &["--kv-transfer-config", "None"],
        &["--served-model-name", "a", "b"],
        &["--served-model-name", "a", "--limit-mm-per-prompt.image", "4", "b"],
        &["--compilation-config.cudagraph_capture_sizes+", "1,2,4"],
        &["--compilation-config={\"mode\": 3}"],
        &["--override-generation-config", "{\"temperature\": 0.5}"],
        &["--chat-template", "{% if a %} --b {% endif %}"],
        &["--hf-token"],
        &["--lora-modules", "a=/a", "b=/b"],
        &["--middleware", "a", "--middleware", "b"],
        &["--seed", "-1"],
        &["--help", "--nonsense"],
    ] {
        assert_eq!(fault(words), None, "{words:?}");
    }
    for (words, at, wanted) in [
        (
            &["--max-model-length", "32768"][..],
            0,
            "has no option --max-model-length: did you mean --max-model-len?",
        ),
        (
            &["--gpu-memory-utilisation=0.9"],
            0,
            "did you mean --gpu-memory-utilization?",
        ),
        (
            &["--nonsense"],
            0,
            "has no option --nonsense: correct it or take it out",
        ),
        (&["-x"], 0, "has no option -x: correct it"),
        (&["-tp2"], 0, "has no option -tp2"),
        (&["--enforce-eager", "true"], 1, "takes no value for --enforce-eager"),
        (&["--enforce-eager=true"], 0, "takes no value for --enforce-eager"),
        (&["--no-max-num-seqs"], 0, "did you mean --max-num-seqs?"),
        (&["--max-num-seqs"], 0, "wants a value for --max-num-seqs"),
        (
            &["--max-num-seqs", "--enforce-eager"],
            0,
            "wants a value for --max-num-seqs",
        ),
        (
            &["--max-num-seqs", "many"],
            1,
            "takes no \"many\" for --max-num-seqs: it takes a whole number",
        ),
        (
            &["--max-num-seqs 16"],
            0,
            "as one word: give --max-num-seqs and its value as two items",
        ),
        (
            &["--seed", "1", "--kv-cache-dtype", "fp4"],
            3,
            "takes no \"fp4\" for --kv-cache-dtype: did you mean fp8?",
        ),
        (&["--swap-space", "4GiB"], 1, "it takes a number"),
        (&["--served-model-name"], 0, "wants a value for --served-model-name"),
        (&["b"], 0, "takes no \"b\" here"),
        (&["--seed", "1", "2"], 2, "takes no \"2\" here"),
        (&["--enforce-eager.x", "1"], 0, "takes no value for --enforce-eager"),
        (&["--nonsense.x", "1"], 0, "has no option --nonsense"),
        (
            &["--compilation-config.mode"],
            0,
            "wants a value for --compilation-config",
        ),
        (&["--model", "other"], 0, "by the field model"),
        (&["--task", "embed"], 0, "has no option --task: correct it"),
    ] {
        let (place, message) = fault(words).unwrap_or_else(|| panic!("{words:?}"));
        assert!(place == at && message.contains(wanted), "{words:?}: {place} {message}");
    }
}

#[test]
fn only_the_version_that_is_known_is_judged() {
    let bad = "  vllm: {model: m, quantization: awq_marlim}";
    let (reason, message) = blocked(&format!("{FEATURE}{bad}"));
    assert_eq!(reason, Reason::InvalidSpec);
    assert_eq!(
        message.split(" it takes").next(),
        Some(
            "spec.vllm.quantization: vLLM 0.15.1, which the feature vllm installs here, takes no \"awq_marlim\" for \
             --quantization: did you mean awq_marlin?"
        )
    );
    let (_, message) = blocked(&format!(
        "{FEATURE}  vllm: {{model: m, extraArgs: [--seed, '1', --nonsense]}}"
    ));
    assert!(message.starts_with("spec.vllm.extraArgs[2]: vLLM 0.15.1"), "{message}");
    let (_, message) = blocked(&format!("{FEATURE}  vllm: {{model: m, dtype: float8}}"));
    assert!(message.starts_with("spec.vllm.dtype: vLLM 0.15.1"), "{message}");

    let template = "kind: PhoenixTemplate
metadata: {name: base}
spec:
  hypervisorRef: {name: pve, namespace: infra}
  lxc: {features: [{name: vllm}]}
";
    let own = "kind: PhoenixFeature\nmetadata: {name: own}\nspec: {aliases: [vllm], install: 'true'}\n";
    let plugins = "kind: PhoenixFeature
metadata: {name: plugins}
spec:
  aliases: [vllm]
  parameters: [{name: version, default: 0.15.1}, {name: extra-packages}]
  install: 'true'
";
    let judged = |features: &str, more: &str| {
        let objects = with_lxc(&format!("{features}{bad}"));
        testing::apply(&objects, more);
        lxc_scripts(&objects).is_err()
    };
    let other = "  features: [{name: vllm, parameters: {version: 0.16.0}}]\n";
    assert!(!judged(other, ""));
    assert!(!judged("  source: {templateRef: {name: base}}\n", template));
    assert!(!judged("  features: [{name: own}]\n", own));
    assert!(judged("  features: [{name: plugins}]\n", plugins));
    let with = "  features: [{name: plugins, parameters: {extra-packages: vllm-quants==1.0}}]\n";
    assert!(!judged(with, plugins));
}

#[test]
fn the_form_of_an_option_goes_by_its_full_name() {
    let cases = [
        (
            "enforce-eager",
            Some(Form::Switch {
                no: Some("no-enforce-eager"),
            }),
        ),
        ("headless", Some(Form::Switch { no: None })),
        ("seed", Some(Form::One { json: false })),
        ("compilation-config", Some(Form::One { json: true })),
        ("hf-token", Some(Form::One { json: false })),
        ("served-model-name", Some(Form::Many)),
        ("enforce", None),
        ("no-enforce-eager", None),
        ("tp", None),
        ("device", None),
        ("", None),
    ];
    for (name, wanted) in cases {
        assert_eq!(form(name), wanted, "{name}");
    }
}
