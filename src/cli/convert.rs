//! `phoenix convert`: reads the legacy files, writes manifests and the report.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::convert::report::{Report, Severity};
use crate::convert::{self, Input, Options, Role, Routing, markdown, values};

/// Files of an applications folder that are read at most: scripts, not models.
const MOST_FILES: usize = 10_000;
/// Bytes of one file of an applications folder that are read at most.
const MOST_BYTES: u64 = 16 << 20;

/// Arguments of `phoenix convert`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 converted (warnings allowed), 1 something could not be written as a valid object \
                        (the rest is written), 2 unreadable input (nothing is written)."
)]
pub struct Args {
    /// phoenix_hypervisor_config.json
    #[arg(long, value_name = "FILE")]
    hypervisor_config: Option<PathBuf>,
    /// phoenix_lxc_configs.json; may be given several times
    #[arg(long, value_name = "FILE")]
    lxc_configs: Vec<PathBuf>,
    /// phoenix_vm_configs.json; may be given several times
    #[arg(long, value_name = "FILE")]
    vm_configs: Vec<PathBuf>,
    /// Folder that holds the application scripts and tests
    #[arg(long, value_name = "DIR")]
    applications: Option<PathBuf>,
    /// Namespace of the objects; without it they go to the namespace they are applied to
    #[arg(long, value_name = "NS", value_parser = namespace)]
    namespace: Option<String>,
    /// Name of the PhoenixHypervisor
    #[arg(long, value_name = "N", default_value = "proxmox", value_parser = hypervisor_name)]
    hypervisor_name: String,
    /// Templates become Proxmox templates (form: Template) where their storage links clones, instead of guests with a
    /// snapshot; for fleets that are built anew
    #[arg(long)]
    linked_clones: bool,
    /// Copy passwords, hashes and tokens of the files into the Secrets that are written, instead of placeholders
    #[arg(long)]
    copy_secrets: bool,
    /// What serves the guests' traefik_service by host name: an Ingress or an HTTPRoute (gateway) each, or none
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "ingress|gateway|none",
        hide_possible_values = true
    )]
    routing: Routing,
    /// Folder for the manifests; it is made if need be
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// File for the report (JSON): what became of every value, and the findings
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// File for the report as Markdown, to read and to file
    #[arg(long, value_name = "FILE")]
    report_md: Option<PathBuf>,
}

fn namespace(text: &str) -> Result<String, String> {
    let label = text.len() <= 63 && !text.contains('.');
    hypervisor_name(text)
        .ok()
        .filter(|_| label)
        .ok_or_else(|| "not the name of a namespace".into())
}

fn hypervisor_name(text: &str) -> Result<String, String> {
    let lower = !text.chars().any(|c| c.is_ascii_uppercase());
    values::hostname(text)
        .filter(|t| lower && t.len() <= 63)
        .ok_or_else(|| "not an object name: lower-case letters, digits, '-' and '.', at most 63".into())
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        match self.convert() {
            Ok(report) if report.count(Severity::Error) > 0 => ExitCode::from(1),
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                errln!("phoenix convert: {error:#}");
                ExitCode::from(2)
            }
        }
    }

    fn convert(&self) -> anyhow::Result<Report> {
        let inputs = self.inputs()?;
        anyhow::ensure!(
            !inputs.is_empty(),
            "nothing to convert: give --hypervisor-config, --lxc-configs or --vm-configs"
        );
        let options = Options {
            namespace: self.namespace.clone(),
            hypervisor_name: self.hypervisor_name.clone(),
            applications: self.applications.as_deref().map(read_folder).transpose()?,
            linked_clones: self.linked_clones,
            copy_secrets: self.copy_secrets,
            routing: self.routing,
        };
        let output = convert::convert(&inputs, &options).map_err(|unreadable| {
            let lines: Vec<String> = unreadable.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}; nothing is written", lines.join("; "))
        })?;
        let dir = &self.output_dir;
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        for (name, text) in &output.files {
            let path = dir.join(name);
            write(&path, text, name.starts_with("secret-")).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &self.report {
            let text = serde_json::to_string_pretty(&output.report)? + "\n";
            fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &self.report_md {
            fs::write(path, markdown::markdown(&output.report)).with_context(|| path.display().to_string())?;
        }
        errout!(
            "{}",
            summary(&output.report, output.files.len(), dir, self.report.as_deref())
        );
        for stranger in strangers(dir, &output.files) {
            errln!(
                "note: {} is not of this conversion; kustomization.yaml does not list it",
                stranger.display()
            );
        }
        Ok(output.report)
    }

    fn inputs(&self) -> anyhow::Result<Vec<Input>> {
        let roles = [
            (Role::Hypervisor, self.hypervisor_config.as_slice()),
            (Role::Lxc, &self.lxc_configs),
            (Role::Vm, &self.vm_configs),
        ];
        let mut inputs = Vec::new();
        for (role, paths) in roles {
            for path in paths {
                inputs.push(Input {
                    file: path.display().to_string(),
                    bytes: fs::read(path).with_context(|| path.display().to_string())?,
                    role,
                });
            }
        }
        Ok(inputs)
    }
}

/// Writes a file; a private one is its owner's alone, from the start.
fn write(path: &Path, text: &str, private: bool) -> std::io::Result<()> {
    if !private {
        return fs::write(path, text);
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

/// The files of a folder by relative path. Links to folders are not followed, so that circles end.
fn read_folder(root: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let place = root.join(&folder);
        for entry in fs::read_dir(&place).with_context(|| place.display().to_string())? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(meta) = fs::metadata(entry.path()) else { continue };
            if !meta.is_file() || meta.len() > MOST_BYTES {
                continue;
            }
            anyhow::ensure!(
                files.len() < MOST_FILES,
                "{} holds more than {MOST_FILES} files",
                root.display()
            );
            let bytes = fs::read(entry.path()).with_context(|| entry.path().display().to_string())?;
            files.insert(path.to_string_lossy().replace('\\', "/"), bytes);
        }
    }
    Ok(files)
}

/// Manifests in the folder that this conversion did not write.
fn strangers(dir: &Path, files: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let ours = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| files.contains_key(&*n.to_string_lossy()))
    };
    let mut found: Vec<_> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| is_yaml(p) && !ours(p))
        .collect();
    found.sort();
    found
}

/// The summary for people: first what they must do.
fn summary(report: &Report, files: usize, dir: &Path, report_file: Option<&Path>) -> String {
    use std::fmt::Write;
    let mut text = to_do(report);
    let all = report.totals.all;
    let _ = writeln!(
        text,
        "{} values: {} mapped, {} defaulted, {} not mapped",
        all.leaves(),
        all.mapped,
        all.defaulted,
        all.not_mapped,
    );
    let unknown: Vec<&str> = report.unknown_keys().collect();
    if !unknown.is_empty() {
        let more = if unknown.len() > 8 { ", …" } else { "" };
        let _ = writeln!(
            text,
            "unknown keys: {}{more}",
            unknown[..unknown.len().min(8)].join(", ")
        );
    }
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    let infos = report.count(Severity::Info);
    let _ = writeln!(text, "{errors} errors, {warnings} warnings, {infos} notes");
    let _ = match report_file {
        Some(path) => writeln!(text, "{files} files in {}, report in {}", dir.display(), path.display()),
        None => writeln!(
            text,
            "{files} files in {}; --report FILE says what became of every value",
            dir.display()
        ),
    };
    text
}

/// What a person must do, by object.
fn to_do(report: &Report) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (object, findings) in report.to_do() {
        let _ = writeln!(text, "{}", object.unwrap_or(markdown::GENERAL));
        // Findings in a row with the same remedy share its line.
        let mut findings = findings.into_iter().peekable();
        while let Some(finding) = findings.next() {
            let (word, place) = (finding.severity.word(), &finding.pointer);
            let _ = writeln!(text, "  {word}: {} ({}#{place})", finding.message, finding.file);
            if findings.peek().is_none_or(|next| next.fix != finding.fix) {
                let _ = writeln!(text, "    fix: {}", finding.fix);
            }
        }
    }
    text
}
