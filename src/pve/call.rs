//! One Proxmox API call as plain data: what a plan carries and the client sends.
//!
//! A call is complete: method, path with its segments already encoded, every parameter and which credential it
//! needs, so that whoever sends it makes no choices.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

/// The methods that Proxmox knows (facts A.2: any other answers 501).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Read; parameters go into the query.
    Get,
    /// Create or act; parameters go into the body.
    Post,
    /// Change; parameters go into the body.
    Put,
    /// Remove; parameters go into the query (a body answers 501).
    Delete,
}

impl Method {
    /// Whether the call changes nothing, so that it may be sent again.
    pub fn is_read(self) -> bool {
        self == Self::Get
    }

    /// The method's name in HTTP.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// Which credential a call is sent with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub enum Auth {
    /// The API token.
    #[default]
    Token,
    /// A ticket of root@pam, which the options of facts D.2 ask for (a token of root is not enough).
    Ticket,
}

/// Parameters whose values are secrets: never printed, logged or serialised.
const SECRET_PARAMS: &[&str] = &[
    "password",
    "cipassword",
    "env",
    "ssh-public-keys",
    "input-data",
    "content",
    "new-password",
    "tfa-challenge",
];
const REDACTED: &str = "***";

/// One complete call.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiCall {
    /// The credential to send it with.
    pub auth: Auth,
    /// The method.
    pub method: Method,
    /// Path below `/api2/json`, with a leading slash and encoded segments: see [`path`].
    pub path: String,
    /// Parameters in order; a key may repeat (Proxmox reads that as an array, facts A.2).
    pub params: Vec<(String, String)>,
}

impl ApiCall {
    /// A call without parameters, sent with the token.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            auth: Auth::Token,
            method,
            path: path.into(),
            params: Vec::new(),
        }
    }

    /// A read of `path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::Get, path)
    }

    /// A POST to `path`.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::Post, path)
    }

    /// A PUT to `path`.
    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::Put, path)
    }

    /// A DELETE of `path`.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::Delete, path)
    }

    /// The call with one more parameter. Booleans are sent as `1` and `0` (facts A.2).
    #[must_use]
    pub fn param(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.params.push((key.into(), value.to_string()));
        self
    }

    /// The call with one more parameter if there is a value.
    #[must_use]
    pub fn param_opt(self, key: impl Into<String>, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.param(key, value),
            None => self,
        }
    }

    /// The call sent with a root@pam ticket.
    #[must_use]
    #[allow(
        clippy::wrong_self_convention,
        reason = "a step of the builder like `param`: it says who sends the call"
    )]
    pub fn as_root(mut self) -> Self {
        self.auth = Auth::Ticket;
        self
    }

    /// The value of the first parameter of that name.
    pub fn get_param(&self, key: &str) -> Option<&str> {
        self.params.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The node in the path, when the call is answered by one node.
    pub fn node(&self) -> Option<&str> {
        self.path.strip_prefix("/nodes/")?.split(['/', '?']).next()
    }

    /// The path with names and numbers replaced by what they are: `/nodes/{node}/lxc/{vmid}/config`. There are few of them.
    pub fn route(&self) -> String {
        route(&self.path)
    }

    /// Parameters with secrets blanked, for people and logs.
    fn shown(&self) -> Vec<(&str, &str)> {
        let hide = |key: &str| SECRET_PARAMS.contains(&key);
        self.params
            .iter()
            .map(|(k, v)| (k.as_str(), if hide(k) { REDACTED } else { v.as_str() }))
            .collect()
    }
}

/// Encodes one path segment (a volid, a UPID, a snapshot name): everything but unreserved characters.
pub fn segment(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for byte in raw.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A path with what names one thing replaced by the sort of thing.
fn route(path: &str) -> String {
    let word = |segment: &str| segment.bytes().all(|b| b.is_ascii_lowercase() || b"-_".contains(&b));
    let mut out = String::with_capacity(path.len());
    let mut before = "";
    for segment in path.split('/').skip(1) {
        let named = match before {
            "nodes" => Some("{node}"),
            "lxc" | "qemu" => Some("{vmid}"),
            "storage" => Some("{storage}"),
            "content" => Some("{volume}"),
            "tasks" => Some("{upid}"),
            "snapshot" => Some("{snapshot}"),
            "rules" => Some("{pos}"),
            "pools" => Some("{pool}"),
            "pci" | "usb" => Some("{id}"),
            _ => (!word(segment)).then_some("{id}"),
        };
        out.push('/');
        out.push_str(named.unwrap_or(segment));
        // A name says nothing about what comes after it, even where it looks like a word of the API.
        before = if named.is_some() { "" } else { segment };
    }
    out
}

/// Joins segments to a path, each encoded.
///
/// ```
/// assert_eq!(phoenix::pve::call::path(["nodes", "pve1", "tasks", "UPID:x:"]), "/nodes/pve1/tasks/UPID%3Ax%3A");
/// ```
pub fn path<'a>(segments: impl IntoIterator<Item = &'a str>) -> String {
    segments.into_iter().fold(String::new(), |mut out, one| {
        out.push('/');
        out.push_str(&segment(one));
        out
    })
}

/// `METHOD /path key=value …`, secrets blanked.
impl fmt::Display for ApiCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.path)?;
        self.shown().iter().try_for_each(|(k, v)| write!(f, " {k}={v}"))
    }
}

impl fmt::Debug for ApiCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiCall")
            .field("auth", &self.auth)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("params", &self.shown())
            .finish()
    }
}

impl Serialize for ApiCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("ApiCall", 4)?;
        out.serialize_field("auth", &self.auth)?;
        out.serialize_field("method", &self.method)?;
        out.serialize_field("path", &self.path)?;
        out.serialize_field("params", &self.shown())?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        let call = ApiCall::post("/nodes/pve1/lxc")
            .param("vmid", 100)
            .param("password", "hunter22");
        for shown in [
            call.to_string(),
            format!("{call:?}"),
            serde_json::to_string(&call).unwrap(),
        ] {
            assert!(!shown.contains("hunter22"), "{shown}");
            assert!(shown.contains("100") && shown.contains("***"), "{shown}");
        }
        assert_eq!(call.get_param("password"), Some("hunter22"));
    }

    #[test]
    fn routes_name_nothing_that_is_there_once() {
        for (path, route) in [
            ("/cluster/resources", "/cluster/resources"),
            ("/nodes/pve1/lxc", "/nodes/{node}/lxc"),
            ("/nodes/lxc/lxc/100/config", "/nodes/{node}/lxc/{vmid}/config"),
            (
                "/nodes/pve1/qemu/100/agent/exec-status",
                "/nodes/{node}/qemu/{vmid}/agent/exec-status",
            ),
            (
                "/nodes/pve1/lxc/100/snapshot/phoenix/config",
                "/nodes/{node}/lxc/{vmid}/snapshot/{snapshot}/config",
            ),
            (
                "/nodes/pve1/lxc/100/firewall/rules/3",
                "/nodes/{node}/lxc/{vmid}/firewall/rules/{pos}",
            ),
            (
                "/nodes/pve1/storage/local/content/local%3Aiso%2Fa",
                "/nodes/{node}/storage/{storage}/content/{volume}",
            ),
            (
                "/nodes/pve1/tasks/UPID%3Apve1%3A/status",
                "/nodes/{node}/tasks/{upid}/status",
            ),
            ("/nodes/pve1/something/A7", "/nodes/{node}/something/{id}"),
        ] {
            assert_eq!(ApiCall::get(path).route(), route);
        }
    }

    #[test]
    fn segments_are_encoded_and_the_node_is_found() {
        assert_eq!(segment("local:vztmpl/a b.tar"), "local%3Avztmpl%2Fa%20b.tar");
        let call = ApiCall::get(path(["nodes", "pve1", "lxc"]));
        assert_eq!(call.node(), Some("pve1"));
        assert_eq!(ApiCall::get("/cluster/resources").node(), None);
    }
}
