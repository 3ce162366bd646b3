//! The Ollama server of a guest: settings for the unit of the feature `ollama`, and a unit beside it that pulls the models.
//!
//! Both are Phoenix's own files (`ollama.service.d/50-phoenix.conf`, `ollama-models.service`): the feature's unit stays as
//! the feature wrote it.

use crate::crd::{Ollama, Probe};
use crate::desired::{Blocked, GuestObject, Objects, Script, ScriptFile, ScriptRole};

use super::server::{self, HOST, asked_at, in_url};
use super::{Given, RUN};

/// The name of block, feature, script and unit.
pub(super) const NAME: &str = "ollama";
/// Port where none is given.
pub(super) const PORT: i64 = 11434;
/// What the probe does in the guest.
const PROBE: &str = include_str!("ollama_probe.sh");
/// What ollama-models.service runs.
const MODELS: &str = include_str!("ollama_models.sh");
/// Puts everything in place.
const BODY: &str = include_str!("ollama.sh");
/// Lets the environment of the block count: it is read after what the feature's unit sets.
const SETTINGS: &str = "# Written by Phoenix from the object's ollama block; changes made here are lost.\n\
    [Service]\nEnvironmentFile=/etc/phoenix/ollama.env\n";
/// Pulls models whenever the server starts, and again when it failed.
const UNIT: &str = "# Written by Phoenix from the object's ollama block; changes made here are lost.
[Unit]
Description=Models of the Ollama server
After=ollama.service
PartOf=ollama.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /etc/phoenix/ollama-models
Restart=on-failure
RestartSec=60
TimeoutStartSec=infinity

[Install]
WantedBy=ollama.service
";
/// Seconds for putting the files in place; pulling models is the probe's matter.
const DEADLINE: i64 = 300;

/// The script that writes the files and restarts the server where one of them changed.
///
/// # Errors
/// `InvalidSpec`, `SecretNotFound`.
pub(super) fn script(object: &GuestObject, server: &Ollama, objects: &dyn Objects) -> Result<Script, Blocked> {
    let field = format!("{}.{NAME}", object.field_prefix());
    let port = server.port.unwrap_or(PORT);
    let host = in_url(server.host.as_deref().unwrap_or(HOST));
    let (address, length) = (format!("{host}:{port}"), server.context_length.map(|n| n.to_string()));
    let known = [
        ("OLLAMA_HOST", "host", Some(address.as_str())),
        ("OLLAMA_MODELS", "modelsPath", server.models_path.as_deref()),
        ("OLLAMA_CONTEXT_LENGTH", "contextLength", length.as_deref()),
        ("OLLAMA_KEEP_ALIVE", "keepAlive", server.keep_alive.as_deref()),
    ];
    let environment = server::environment_file(object, &known, server.environment.as_deref(), objects, &field)?;
    let file = |name: &str, content: String, mode: &str| ScriptFile {
        path: format!("{RUN}/{NAME}/{name}"),
        content,
        mode: mode.into(),
    };
    let list: String = server.models.iter().map(|model| format!("{model}\n")).collect();
    let asked = asked_at(server.host.as_deref()).unwrap_or("127.0.0.1".into());
    let models = MODELS.replace("@BASE@", &format!("http://{asked}:{port}"));
    let mut given = Given {
        files: vec![
            file("ollama.env", environment, "0600"),
            file("50-phoenix.conf", SETTINGS.into(), "0644"),
            file("ollama-models", models, "0644"),
            file("ollama-models.list", list, "0644"),
            file("ollama-models.service", UNIT.into(), "0644"),
        ],
        ..Given::default()
    };
    if let Some(path) = &server.models_path {
        given
            .environment
            .insert("PHOENIX_OLLAMA_MODELS_PATH".into(), path.clone());
    }
    let body = format!("{}{BODY}", server::header(NAME));
    Ok(given.script(ScriptRole::ModelServer, NAME.into(), NAME, body, DEADLINE))
}

/// The probe of an Ollama server: it has every model, and the first one answered since the server was started.
pub(super) fn probe(server: &Ollama) -> Probe {
    let asked = asked_at(server.host.as_deref()).unwrap_or("127.0.0.1".into());
    let base = format!("http://{asked}:{}", server.port.unwrap_or(PORT));
    server::probe(PROBE, std::iter::once(base).chain(server.models.iter().cloned()))
}
