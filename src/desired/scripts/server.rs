//! What the model servers of guests share: at most one of them per guest, with a systemd unit, an environment file, a
//! script that puts both in place, and a probe.

use std::collections::BTreeMap;

use crate::crd::{EnvVar, ExecAction, KeyRef, LlamaCpp, Ollama, Probe, Vllm};
use crate::desired::{Blocked, GuestObject, Objects, Script, ScriptFile, ScriptRole, refs};

use super::features::{Wanted, lineage_has};
use super::{Given, RUN, environment, invalid, llamacpp, no_nul, ollama, vllm};

/// What lets the pauses grow between the ends of a server and its next starts.
const PAUSE: &str = include_str!("vllm_pause.sh");
/// What the probe of vLLM and llama.cpp does in the guest.
const PROBE: &str = include_str!("server_probe.sh");
/// Puts unit and environment in place by rename, and restarts the server only where one of them changed.
const BODY: &str = include_str!("server.sh");
/// Stops the server of an earlier block. Its record goes too, so that it is put in place anew when the block comes back.
const OTHERS: &str = include_str!("server_others.sh");
/// Address where none is given: all of IPv4.
pub(super) const HOST: &str = "0.0.0.0";
/// Seconds for putting the unit in place; loading the model is the probe's matter.
const DEADLINE: i64 = 300;

/// The model server of a guest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ModelServer<'o> {
    /// vLLM.
    Vllm(&'o Vllm),
    /// Ollama.
    Ollama(&'o Ollama),
    /// llama.cpp.
    LlamaCpp(&'o LlamaCpp),
}

impl<'o> ModelServer<'o> {
    /// That of an object; the schema lets it have one.
    pub(crate) fn of(object: &'o GuestObject) -> Option<Self> {
        let guest = object.lxc()?;
        let vllm = guest.vllm.as_ref().map(ModelServer::Vllm);
        let ollama = || guest.ollama.as_ref().map(ModelServer::Ollama);
        let llamacpp = || guest.llamacpp.as_ref().map(ModelServer::LlamaCpp);
        vllm.or_else(ollama).or_else(llamacpp)
    }

    /// The name of its block, its feature, its script and its unit.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ModelServer::Vllm(_) => vllm::FEATURE,
            ModelServer::Ollama(_) => ollama::NAME,
            ModelServer::LlamaCpp(_) => llamacpp::NAME,
        }
    }

    /// What people call it.
    fn title(self) -> &'static str {
        match self {
            ModelServer::Vllm(_) => "vLLM",
            ModelServer::Ollama(_) => "Ollama",
            ModelServer::LlamaCpp(_) => "llama.cpp",
        }
    }

    /// The model that it answers for: the first one, of several.
    pub(crate) fn model(self) -> &'o str {
        match self {
            ModelServer::Vllm(server) => &server.model,
            ModelServer::Ollama(server) => server.models.first().map(String::as_str).unwrap_or_default(),
            ModelServer::LlamaCpp(server) => &server.model,
        }
    }

    /// Address, if it is given, and port that it listens on.
    pub(crate) fn listens(self) -> (Option<&'o str>, i64) {
        match self {
            ModelServer::Vllm(server) => (server.host.as_deref(), server.port.unwrap_or(vllm::PORT)),
            ModelServer::Ollama(server) => (server.host.as_deref(), server.port.unwrap_or(ollama::PORT)),
            ModelServer::LlamaCpp(server) => (server.host.as_deref(), server.port.unwrap_or(llamacpp::PORT)),
        }
    }

    /// Checks that the guest, or a template that it comes from, has the server installed, and makes the script that puts
    /// it in place.
    pub(super) fn script(
        self,
        object: &GuestObject,
        wanted: &[Wanted],
        features: &[Script],
        objects: &dyn Objects,
    ) -> Result<Script, Blocked> {
        self.needs_feature(object, wanted, objects)?;
        match self {
            ModelServer::Vllm(server) => {
                let script = vllm::script(object, server, objects)?;
                if let Some((_, feature)) = wanted.iter().zip(features).find(|(w, _)| w.is(vllm::FEATURE)) {
                    vllm::knows_arguments(object, server, feature)?;
                }
                Ok(script)
            }
            ModelServer::Ollama(server) => ollama::script(object, server, objects),
            ModelServer::LlamaCpp(server) => llamacpp::script(object, server, objects),
        }
    }

    fn needs_feature(self, object: &GuestObject, wanted: &[Wanted], objects: &dyn Objects) -> Result<(), Blocked> {
        let name = self.name();
        if wanted.iter().any(|w| w.is(name)) || lineage_has(object, name, objects) {
            return Ok(());
        }
        let prefix = object.field_prefix();
        Err(invalid(format!(
            "{prefix}.{name}: {} is not installed in this guest: add {{name: {name}}} to {prefix}.features, or use a \
             template that has it",
            self.title()
        )))
    }

    /// Its probe.
    pub(super) fn probe(self) -> Probe {
        match self {
            ModelServer::Vllm(server) => vllm::probe(server),
            ModelServer::Ollama(server) => ollama::probe(server),
            ModelServer::LlamaCpp(server) => llamacpp::probe(server),
        }
    }
}

/// A word of the command line, and the field that it comes from.
pub(super) struct Argument {
    pub field: String,
    pub word: String,
}

/// The words of a command line as they are collected.
#[derive(Default)]
pub(super) struct Arguments(pub Vec<Argument>);

impl Arguments {
    /// A word by itself.
    pub fn word(&mut self, field: &str, word: &str) {
        self.0.push(Argument {
            field: field.into(),
            word: word.into(),
        });
    }

    /// An option with its value, where there is one.
    pub fn option(&mut self, field: &str, option: &str, value: Option<String>) {
        if let Some(value) = value {
            self.word(field, option);
            self.word(field, &value);
        }
    }

    /// The user's own; with all servers the last one of two counts.
    pub fn extra(&mut self, words: Option<&Vec<String>>) {
        for (i, word) in words.into_iter().flatten().enumerate() {
            self.word(&format!("extraArgs[{i}]"), word);
        }
    }

    /// # Errors
    /// `InvalidSpec`: a word holds a NUL character.
    pub fn check(&self, field: &str) -> Result<(), Blocked> {
        self.0
            .iter()
            .try_for_each(|a| no_nul(&format!("{field}.{}", a.field), &a.word))
    }
}

/// Refuses a value that reads as an option; `wish` says what to give instead.
pub(super) fn no_option(field: &str, value: Option<&String>, wish: &str) -> Result<(), Blocked> {
    match value.filter(|value| value.starts_with('-')) {
        Some(value) => Err(invalid(format!("{field}: {value:?} reads as an option: give {wish}"))),
        None => Ok(()),
    }
}

/// A server that systemd runs from a command line.
pub(super) struct Service<'s> {
    /// As [`ModelServer::name`].
    pub name: &'static str,
    /// The unit's description begins with it.
    pub title: &'static str,
    /// Folder of the program.
    pub folder: &'static str,
    /// The program, and what comes before its arguments.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: Arguments,
    /// Content of its environment file.
    pub environment: String,
    /// Folder for models, made where it is absent.
    pub cache: Option<&'s str>,
}

impl Service<'_> {
    /// The script that writes and starts the unit.
    pub fn script(self) -> Script {
        let name = self.name;
        let file = |file: String, content: String, mode: &str| ScriptFile {
            path: format!("{RUN}/{name}/{file}"),
            content,
            mode: mode.into(),
        };
        let mut given = Given {
            files: vec![
                file(format!("{name}.service"), self.unit(), "0644"),
                file(format!("{name}-pause"), PAUSE.replace("vllm", name), "0644"),
                file(format!("{name}.env"), self.environment.clone(), "0600"),
            ],
            ..Given::default()
        };
        let variable = format!("PHOENIX_{}_CACHE_PATH", name.to_uppercase());
        if let Some(path) = self.cache {
            given.environment.insert(variable.clone(), path.into());
        }
        let program = format!("{}/{}", self.folder, self.program.split(' ').next().unwrap_or_default());
        let body = format!("{}{BODY}", header(name))
            .replace("@NAME@", name)
            .replace("@PROGRAM@", &program)
            .replace("@CACHE_PATH@", &variable);
        given.script(ScriptRole::ModelServer, name.into(), name, body, DEADLINE)
    }

    fn unit(&self) -> String {
        let Service {
            name,
            title,
            folder,
            program,
            ..
        } = self;
        let command: Vec<String> = self.arguments.0.iter().map(|a| exec_word(&a.word)).collect();
        format!(
            r#"# Written by Phoenix from the object's {name} block; changes made here are lost.
[Unit]
Description={title} model server
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
Environment=HOME=/root
Environment=PATH={folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EnvironmentFile=-/etc/phoenix/proxy.env
EnvironmentFile=/etc/phoenix/{name}.env
ExecStartPre=-/bin/sh /etc/phoenix/{name}-pause
ExecStart={folder}/{program} {}
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
}

/// How the body of every server's script begins.
pub(super) fn header(name: &str) -> String {
    OTHERS.replace("@NAME@", name)
}

/// A Hugging Face token.
///
/// # Errors
/// `InvalidSpec`, `SecretNotFound`.
pub(super) fn token(
    object: &GuestObject,
    reference: Option<&KeyRef>,
    objects: &dyn Objects,
    field: &str,
) -> Result<Option<String>, Blocked> {
    let Some(reference) = reference else {
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
///
/// # Errors
/// `InvalidSpec`, `SecretNotFound`.
pub(super) fn api_key(
    object: &GuestObject,
    reference: Option<&KeyRef>,
    extra: Option<&Vec<String>>,
    objects: &dyn Objects,
    field: &str,
) -> Result<Option<String>, Blocked> {
    let Some(reference) = reference else {
        return Ok(None);
    };
    let field = format!("{field}.apiKeySecretRef");
    // With an option of the command line, also a shortened one, servers do not look at their environment.
    let given = |word: &String| word.replace('_', "-").starts_with("--api-k");
    if extra.into_iter().flatten().any(given) {
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

/// A variable of the server that a field of its block sets: name, field, value.
pub(super) type Known<'s> = (&'static str, &'static str, Option<&'s str>);

/// The environment file of a block: what its fields set, and the user's own variables.
///
/// # Errors
/// `InvalidSpec` where the user's list has what a field sets too (systemd would take the last of two lines);
/// `SecretNotFound`.
pub(super) fn environment_file(
    object: &GuestObject,
    known: &[Known<'_>],
    list: Option<&[EnvVar]>,
    objects: &dyn Objects,
    field: &str,
) -> Result<String, Blocked> {
    let own = environment(object, list, objects, field)?;
    for (_, other, value) in known {
        no_nul(&format!("{field}.{other}"), value.unwrap_or_default())?;
    }
    let twice = known
        .iter()
        .find(|(name, _, value)| value.is_some() && own.contains_key(*name));
    if let Some((name, other, _)) = twice {
        return Err(invalid(format!(
            "{field}.environment[{name}]: {field}.{other} sets {name} already: leave one of them out"
        )));
    }
    let known = known.iter().filter_map(|(name, _, value)| Some((*name, (*value)?)));
    let block = field.rsplit('.').next().unwrap_or_default();
    Ok(written(block, known, &own))
}

/// In double quotes four characters need a backslash (systemd.exec(5), EnvironmentFile=).
fn written<'s>(
    block: &str,
    known: impl Iterator<Item = (&'s str, &'s str)>,
    own: &'s BTreeMap<String, String>,
) -> String {
    let mut out = format!("# Written by Phoenix from the object's {block} block; changes made here are lost.\n");
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

/// The probe of vLLM and llama.cpp: health, the model's name, one completion or embedding. It answers only when the model
/// is loaded, however long that takes.
pub(super) fn service_probe(server: ModelServer<'_>, model: &str, kind: &str) -> Probe {
    let (host, port) = server.listens();
    let unit = format!("{}.service", server.name());
    let arguments = [port.to_string(), model.to_string(), kind.to_string(), unit];
    let arguments = arguments
        .into_iter()
        .chain(asked_at(host).map(|host| host.into_owned()));
    probe(PROBE, arguments)
}

/// A server that worked has failed when it gave no answer for a minute.
pub(super) fn probe(script: &str, arguments: impl IntoIterator<Item = String>) -> Probe {
    let words = ["/bin/sh", "-c", script, "phoenix-probe"].map(str::to_string);
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

/// Where in the guest the server is asked, if it is not 127.0.0.1.
pub(super) fn asked_at(host: Option<&str>) -> Option<std::borrow::Cow<'_, str>> {
    match host? {
        HOST | "127.0.0.1" => None,
        "::" => Some("[::1]".into()),
        host => Some(in_url(host)),
    }
}

/// An address as URLs have it.
pub(super) fn in_url(host: &str) -> std::borrow::Cow<'_, str> {
    match host.contains(':') {
        true => format!("[{host}]").into(),
        false => host.into(),
    }
}
