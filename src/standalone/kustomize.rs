//! Builds a kustomization with the program that is there: `kubectl`, else `kustomize`.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

/// The programs that can build, and their words before the folder.
const PROGRAMS: &[(&str, &str)] = &[("kubectl", "kustomize"), ("kustomize", "build")];

/// What a kustomization came to.
pub struct Built {
    /// The command that built it, for messages about places in `text`.
    pub command: String,
    /// The manifests.
    pub text: String,
    /// What the program said beside, such as warnings; one a line.
    pub said: String,
}

/// Builds the kustomization of a folder.
///
/// # Errors
/// In words: `folder` is none, no program is there, or what the program said when it failed.
pub fn build(folder: &Path) -> Result<Built, String> {
    if !folder.is_dir() {
        return Err(format!(
            "{}: not a folder: -k takes one with a kustomization.yaml",
            folder.display()
        ));
    }
    for (program, word) in PROGRAMS {
        let command = format!("{program} {word} {}", folder.display());
        let run = Command::new(program)
            .arg(word)
            .arg(folder)
            .stdin(Stdio::null())
            .output();
        let output = match run {
            Ok(output) => output,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{command}: {error}")),
        };
        let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        if !output.status.success() {
            return Err(format!("{command} failed ({}): {said}", output.status));
        }
        let text = String::from_utf8(output.stdout).map_err(|error| format!("{command}: {error}"))?;
        return Ok(Built { command, text, said });
    }
    Err(format!(
        "-k {}: neither kubectl nor kustomize is on the PATH: install one of them, or build the kustomization elsewhere \
         and give the file with -f",
        folder.display()
    ))
}
