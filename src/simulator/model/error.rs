//! What a refused request says, in Proxmox's words (facts A.1, A.4).

use std::collections::BTreeMap;

/// A refusal as the API reports it: HTTP status, message (also the reason phrase) and errors per parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {}", message.trim_end())]
pub struct ApiError {
    /// HTTP status code.
    pub status: u16,
    /// Text as Perl would have died with it, line end included where Perl adds one.
    pub message: String,
    /// Message per parameter; `None` where the reply has no `errors`.
    pub errors: Option<BTreeMap<String, String>>,
    /// The guest whose configuration file is locked by somebody else: the caller may wait and try again
    /// (facts B.5: 10 s).
    pub wait_for: Option<u32>,
}

/// Result of an operation on the model.
pub type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    /// Any status with a text that ends in a newline, as Perl's `die "…\n"` does.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        let message = format!("{}\n", message.into());
        Self {
            status,
            message,
            errors: None,
            wait_for: None,
        }
    }

    /// A plain failure inside a method: status 500.
    pub fn die(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    /// One refused parameter: status 400.
    pub fn param(name: &str, text: impl Into<String>) -> Self {
        Self::params([(name.to_owned(), text.into())])
    }

    /// Several refused parameters: status 400.
    pub fn params(errors: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut error = Self::new(400, "Parameter verification failed.");
        error.errors = Some(errors.into_iter().collect());
        error
    }

    /// A missing privilege: status 403 with what was checked.
    pub fn permission(what: impl AsRef<str>) -> Self {
        Self::new(403, format!("Permission check failed ({})", what.as_ref()))
    }

    /// A missing privilege where Proxmox does not say which.
    pub fn permission_bare() -> Self {
        Self::new(403, "Permission check failed")
    }

    /// The signal for "no such guest" of all guest endpoints (facts A.4).
    pub fn no_config(node: &str, kind: &str, vmid: u32) -> Self {
        Self::die(format!(
            "Configuration file 'nodes/{node}/{kind}/{vmid}.conf' does not exist"
        ))
    }

    /// The configuration of `vmid` is held by a running task; worth another try until the lock times out.
    pub fn locked_file(vmid: u32, vm: bool) -> Self {
        let file = if vm {
            format!("/var/lock/qemu-server/lock-{vmid}.conf")
        } else {
            format!("/run/lock/lxc/pve-config-{vmid}.lock")
        };
        let text = format!("can't lock file '{file}' - got timeout");
        Self {
            wait_for: Some(vmid),
            ..Self::die(text)
        }
    }

    /// First line of the message, which is the reason phrase and the exit status of a task.
    pub fn first_line(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }
}
