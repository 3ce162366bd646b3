//! The vLLM server of a guest: its systemd unit, its environment file, the script that puts them in place, its probe.
//!
//! Arguments are those of `vllm serve` of vLLM 0.10.1 and newer; older ones know no `--runner`.

use std::collections::BTreeMap;

use crate::crd::{ExecAction, Probe, Vllm, VllmModelType};
use crate::desired::gpus::share_for_vllm;
use crate::desired::{Blocked, GuestObject, Objects, Script, ScriptFile, ScriptRole, refs};

use super::features::{Wanted, lineage_has};
use super::{Given, RUN, environment, invalid, no_nul, vllm_flags};

/// The feature that brings `/opt/vllm/bin/vllm`.
pub(super) const FEATURE: &str = "vllm";
/// The server's unit.
const UNIT: &str = "vllm.service";
/// What the probe does in the guest.
const PROBE: &str = include_str!("vllm_probe.sh");
/// What lets the pauses grow between the ends of a server and its next starts.
const PAUSE: &str = include_str!("vllm_pause.sh");
/// Variable with the key that clients show.
const API_KEY: &str = "VLLM_API_KEY";
/// Address where none is given: all of IPv4.
const HOST: &str = "0.0.0.0";
/// Port where none is given.
const PORT: i64 = 8000;
/// Seconds for putting the unit in place; loading the model is the probe's matter.
const DEADLINE: i64 = 300;

/// Puts unit and environment in place by rename, and restarts the server only where one of them changed.
const BODY: &str = r#"#!/bin/sh
# Puts vllm.service and its environment in place, and restarts it where something changed.
set -eu
from=/run/phoenix/vllm
changed=
put() { # name, target, mode
  cmp -s "$from/$1" "$2" || {
    install -m "$3" "$from/$1" "$2.phoenix-new"
    mv -f "$2.phoenix-new" "$2"
    changed=yes
  }
  chmod "$3" "$2"
}
[ -x /opt/vllm/bin/vllm ] || {
  echo "vllm: /opt/vllm/bin/vllm is not there: install the feature vllm" >&2
  exit 1
}
[ -z "${PHOENIX_VLLM_CACHE_PATH:-}" ] || mkdir -p -- "$PHOENIX_VLLM_CACHE_PATH"
mkdir -p /etc/phoenix
put vllm-pause /etc/phoenix/vllm-pause 0644
changed= # a server that runs needs no restart for that
put vllm.env /etc/phoenix/vllm.env 0600
put vllm.service /etc/systemd/system/vllm.service 0644
rm -f "$from/vllm.env"
systemctl daemon-reload
systemctl enable --quiet vllm.service
if [ -n "$changed" ]; then
  systemctl restart vllm.service
else
  # Not waited for: it may be within a pause of minutes.
  systemctl start --no-block vllm.service
fi
echo "vllm: vllm.service is started"
"#;

/// Checks that the guest, or a template that it comes from, has vLLM installed.
///
/// # Errors
/// `InvalidSpec`.
pub(super) fn needs_feature(object: &GuestObject, wanted: &[Wanted], objects: &dyn Objects) -> Result<(), Blocked> {
    if wanted.iter().any(|w| w.is(FEATURE)) || lineage_has(object, FEATURE, objects) {
        return Ok(());
    }
    let prefix = object.field_prefix();
    Err(invalid(format!(
        "{prefix}.vllm: vLLM is not installed in this guest: add {{name: {FEATURE}}} to {prefix}.features, or use a \
         template that has it"
    )))
}

/// The script that writes and starts vllm.service.
///
/// # Errors
/// `InvalidSpec`, `SecretNotFound`.
pub(super) fn script(object: &GuestObject, server: &Vllm, objects: &dyn Objects) -> Result<Script, Blocked> {
    let server = &within_share(object, server);
    let field = format!("{}.vllm", object.field_prefix());
    for (part, value, wish) in [
        (
            "model",
            Some(&server.model),
            "a model id such as Qwen/Qwen2.5-7B-Instruct, or a path",
        ),
        ("servedName", server.served_name.as_ref(), "another name"),
        (
            "quantization",
            server.quantization.as_ref(),
            "a quantization such as awq_marlin",
        ),
        ("dtype", server.dtype.as_ref(), "a data type such as float16"),
    ] {
        if let Some(value) = value.filter(|v| v.starts_with('-')) {
            return Err(invalid(format!(
                "{field}.{part}: {value:?} reads as an option: give {wish}"
            )));
        }
    }
    for Argument { field: part, word } in arguments(server) {
        no_nul(&format!("{field}.{part}"), &word)?;
    }
    let token = token(object, server, objects, &field)?;
    let key = api_key(object, server, objects, &field)?;
    let own = environment(object, server.environment.as_deref(), objects, &field)?;
    not_twice(server, &own, &field)?;
    let file = |name: &str, content: String, mode: &str| ScriptFile {
        path: format!("{RUN}/vllm/{name}"),
        content,
        mode: mode.into(),
    };
    let mut given = Given {
        files: vec![
            file("vllm.service", unit(server), "0644"),
            file("vllm-pause", PAUSE.into(), "0644"),
            file(
                "vllm.env",
                environment_file(server, token.as_deref(), key.as_deref(), &own),
                "0600",
            ),
        ],
        ..Given::default()
    };
    if let Some(path) = &server.cache_path {
        given.environment.insert("PHOENIX_VLLM_CACHE_PATH".into(), path.clone());
    }
    Ok(given.script(ScriptRole::Vllm, "vllm".into(), "vllm", BODY.into(), DEADLINE))
}

/// Some variables have fields of their own, and systemd would take the last of two lines.
fn not_twice(server: &Vllm, own: &BTreeMap<String, String>, field: &str) -> Result<(), Blocked> {
    let given = [
        ("HF_HOME", "cachePath", server.cache_path.is_some()),
        ("HF_TOKEN", "tokenSecretRef", server.token_secret_ref.is_some()),
        (API_KEY, "apiKeySecretRef", server.api_key_secret_ref.is_some()),
    ];
    match given
        .into_iter()
        .find(|(name, _, given)| *given && own.contains_key(*name))
    {
        Some((name, other, _)) => Err(invalid(format!(
            "{field}.environment[{name}]: {field}.{other} sets {name} already: leave one of them out"
        ))),
        None => Ok(()),
    }
}

fn token(object: &GuestObject, server: &Vllm, objects: &dyn Objects, field: &str) -> Result<Option<String>, Blocked> {
    let Some(reference) = &server.token_secret_ref else {
        return Ok(None);
    };
    let field = format!("{field}.tokenSecretRef");
    let (name, key) = (&reference.name, &reference.key);
    let value = refs::secret_text(objects, &object.key.namespace, name, key, &field)?;
    // Secrets made from files end in a line break.
    let token = value.trim();
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(invalid(format!(
            "{field}: {} holds blanks or line breaks: a Hugging Face token is one word such as hf_…",
            refs::key_of_secret(&object.key.namespace, name, key)
        )));
    }
    Ok(Some(token.to_string()))
}

/// The key that clients show. The probe reads it from the environment file and shows it too, so it holds nothing that
/// would have to be quoted there.
fn api_key(object: &GuestObject, server: &Vllm, objects: &dyn Objects, field: &str) -> Result<Option<String>, Blocked> {
    let Some(reference) = &server.api_key_secret_ref else {
        return Ok(None);
    };
    let field = format!("{field}.apiKeySecretRef");
    // With an option of the command line, also a shortened one, vLLM does not look at its environment.
    let given = |word: &String| word.replace('_', "-").starts_with("--api-k");
    if server.extra_args.iter().flatten().any(given) {
        return Err(invalid(format!(
            "{field}: --api-key of extraArgs would count instead, and shows the key to every process: take it out"
        )));
    }
    let (name, key) = (&reference.name, &reference.key);
    let value = refs::secret_text(objects, &object.key.namespace, name, key, &field)?;
    let text = value.trim();
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '$' | '`');
    if text.is_empty() || !text.chars().all(plain) {
        return Err(invalid(format!(
            "{field}: {} is no word of ASCII characters without quotes, backslash and '$': make one with openssl rand -hex 32",
            refs::key_of_secret(&object.key.namespace, name, key)
        )));
    }
    Ok(Some(text.to_string()))
}

/// Checks the arguments where the version that the object's own feature installs is the one whose options are known. A
/// guest that has vLLM from its template may have it from an older revision of that, and further packages may bring
/// plugins, which add options: the server refuses them itself then, and the probe tells.
///
/// # Errors
/// `InvalidSpec`.
pub(super) fn knows_arguments(object: &GuestObject, server: &Vllm, feature: &Script) -> Result<(), Blocked> {
    let parameter = |name: &str| feature.environment.get(name).map(String::as_str).unwrap_or_default();
    let version = vllm_flags::version();
    if parameter("PHOENIX_VERSION") != version || !parameter("PHOENIX_EXTRA_PACKAGES").is_empty() {
        return Ok(());
    }
    let mut options = arguments(server);
    // The first one is the model.
    options.remove(0);
    let words: Vec<&str> = options.iter().map(|a| a.word.as_str()).collect();
    match vllm_flags::fault(&words) {
        None => Ok(()),
        Some((at, fault)) => Err(invalid(format!(
            "{}.vllm.{}: vLLM {version}, which the feature {} installs here, {fault}",
            object.field_prefix(),
            options[at].field,
            feature.name
        ))),
    }
}

/// The server with the share of its GPUs' memory that `gpus` gives it, where its block does not say how much it takes.
fn within_share(object: &GuestObject, server: &Vllm) -> Vllm {
    let share = object.lxc().and_then(share_for_vllm);
    Vllm {
        gpu_memory_utilization: server.gpu_memory_utilization.or(share),
        ..server.clone()
    }
}

/// A word of the command line, and the field that it comes from.
struct Argument {
    field: String,
    word: String,
}

/// Arguments of `vllm serve`. The user's own come last, and with vLLM the last one counts.
fn arguments(server: &Vllm) -> Vec<Argument> {
    let text = |number: Option<i64>| number.map(|n| n.to_string());
    let runner = match server.model_type.unwrap_or_default() {
        VllmModelType::Chat => None,
        VllmModelType::Embedding => Some("pooling".to_string()),
    };
    let options = [
        (
            "host",
            "--host",
            Some(server.host.clone().unwrap_or_else(|| HOST.into())),
        ),
        ("port", "--port", text(server.port.or(Some(PORT)))),
        ("servedName", "--served-model-name", server.served_name.clone()),
        ("modelType", "--runner", runner),
        ("quantization", "--quantization", server.quantization.clone()),
        ("dtype", "--dtype", server.dtype.clone()),
        ("maxModelLen", "--max-model-len", text(server.max_model_len)),
        (
            "gpuMemoryUtilization",
            "--gpu-memory-utilization",
            server.gpu_memory_utilization.map(|v| v.to_string()),
        ),
        (
            "tensorParallelSize",
            "--tensor-parallel-size",
            text(server.tensor_parallel_size),
        ),
    ];
    let argument = |field: &str, word: &str| Argument {
        field: field.into(),
        word: word.into(),
    };
    let mut arguments = vec![argument("model", &server.model)];
    for (field, option, value) in options {
        if let Some(value) = value {
            arguments.extend([argument(field, option), argument(field, &value)]);
        }
    }
    if server.trust_remote_code == Some(true) {
        arguments.push(argument("trustRemoteCode", "--trust-remote-code"));
    }
    if server.sleep_mode == Some(true) {
        arguments.push(argument("sleepMode", "--enable-sleep-mode"));
    }
    let own = server.extra_args.iter().flatten().enumerate();
    arguments.extend(own.map(|(i, word)| argument(&format!("extraArgs[{i}]"), word)));
    arguments
}

/// The unit vllm.service.
fn unit(server: &Vllm) -> String {
    let command: Vec<String> = arguments(server).iter().map(|a| exec_word(&a.word)).collect();
    format!(
        r#"# Written by Phoenix from the object's vllm block; changes made here are lost.
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
ExecStart=/opt/vllm/bin/vllm serve {}
Restart=always
RestartSec=10
TimeoutStartSec=400
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"#,
        command.join(" ")
    )
}

/// A word for ExecStart= that systemd takes literally: specifiers and variables doubled, quotes and control characters
/// as C escapes (systemd.service(5), "Command lines"; systemd.syntax(7), "Quoting").
fn exec_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    let mut out = String::from('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' | '$' => out.extend([c, c]),
            '\n' => out.push_str("\\n"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The environment file: folder for models, token, key, and the user's own variables. In double quotes four characters need a backslash
/// (systemd.exec(5), EnvironmentFile=).
fn environment_file(server: &Vllm, token: Option<&str>, key: Option<&str>, own: &BTreeMap<String, String>) -> String {
    let mut out = String::from("# Written by Phoenix from the object's vllm block; changes made here are lost.\n");
    let known = [
        ("HF_HOME", server.cache_path.as_deref()),
        ("HF_TOKEN", token),
        (API_KEY, key),
    ];
    let known = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let own = own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in known.chain(own) {
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            if matches!(c, '"' | '\\' | '$' | '`') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push_str("\"\n");
    }
    out
}

/// The probe of a vLLM server: health, the model's name, one completion. It answers only when the model is loaded, however
/// long that takes; a server that worked has failed when it gave no answer for a minute.
pub(super) fn probe(server: &Vllm) -> Probe {
    let kind = match server.model_type.unwrap_or_default() {
        VllmModelType::Chat => "chat",
        VllmModelType::Embedding => "embedding",
    };
    let words = ["/bin/sh", "-c", PROBE, "phoenix-probe"].map(str::to_string);
    let port = server.port.unwrap_or(PORT).to_string();
    let model = server.served_name.clone().unwrap_or_else(|| server.model.clone());
    let arguments = [port, model, kind.to_string(), UNIT.to_string()];
    let arguments = arguments.into_iter().chain(address(server));
    Probe {
        exec: Some(ExecAction {
            command: words.into_iter().chain(arguments).collect(),
        }),
        period_seconds: Some(10),
        timeout_seconds: Some(55),
        failure_threshold: Some(6),
        ..Probe::default()
    }
}

/// Where the probe asks, if it is not 127.0.0.1.
fn address(server: &Vllm) -> Option<String> {
    match server.host.as_deref()? {
        "0.0.0.0" | "127.0.0.1" => None,
        "::" => Some("[::1]".into()),
        v6 if v6.contains(':') => Some(format!("[{v6}]")),
        v4 => Some(v4.into()),
    }
}
