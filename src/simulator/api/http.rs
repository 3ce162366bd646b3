//! The HTTP side of the API: what the server does before it knows any method (facts A.1, A.2).

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use sha1::{Digest as _, Sha1};
use sha2::{Sha224, Sha256, Sha384, Sha512};

use super::call::Reply;
use crate::simulator::model::ApiError;
use crate::simulator::model::download::UploadedFile;

/// A request as it came in.
#[derive(Debug, Clone, Default)]
pub struct HttpRequest {
    /// Verb.
    pub method: String,
    /// Path without query, still percent-encoded.
    pub path: String,
    /// Query without `?`.
    pub query: String,
    /// `Authorization` header.
    pub authorization: Option<String>,
    /// `Cookie` header.
    pub cookie: Option<String>,
    /// `CSRFPreventionToken` header.
    pub csrf: Option<String>,
    /// `Content-Type` header.
    pub content_type: Option<String>,
    /// Body.
    pub body: Vec<u8>,
}

/// A reply to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// Body.
    pub body: Vec<u8>,
    /// `Content-Type` header.
    pub content_type: &'static str,
    /// Milliseconds to wait before it is sent, already scaled.
    pub delay_ms: u64,
    /// The connection is cut instead.
    pub cut: bool,
}

/// How an answer is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formatter {
    /// `/api2/json`.
    Json,
    /// `/api2/extjs`: always 200.
    ExtJs,
}

/// Largest body of a POST or PUT.
const LARGEST_BODY: usize = 512 * 1024;

impl HttpReply {
    /// A reply with a plain text body.
    pub fn plain(status: u16, reason: impl Into<String>, body: impl Into<String>) -> Self {
        Self {
            status,
            reason: first_line(&reason.into()),
            body: body.into().into_bytes(),
            content_type: "text/plain",
            delay_ms: 0,
            cut: false,
        }
    }

    fn json<const N: usize>(status: u16, reason: &str, body: [(&str, Value); N]) -> Self {
        let body: Map<String, Value> = body.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Self::json_of(status, reason, &Value::Object(body))
    }

    fn json_of(status: u16, reason: &str, body: &Value) -> Self {
        let mut reply = Self::plain(status, reason, "");
        // What comes of values has only text for keys, which is all that could fail.
        reply.body = serde_json::to_vec(body).unwrap_or_default();
        reply.content_type = "application/json;charset=UTF-8";
        reply
    }

    /// A connection that ends without a reply.
    pub fn cut() -> Self {
        Self {
            cut: true,
            ..Self::plain(0, "", "")
        }
    }

    /// The envelope around what a method answered.
    pub fn answer(formatter: Formatter, old_body: bool, result: Result<Reply, ApiError>) -> Self {
        match (formatter, result) {
            (_, Ok(Reply::Raw(text))) => Self::plain(200, "OK", text),
            (Formatter::Json, Ok(Reply::Data(data) | Reply::Counted(data, 0))) => {
                Self::json(200, "OK", [("data", data)])
            }
            (Formatter::Json, Ok(Reply::Counted(data, total))) => {
                Self::json(200, "OK", [("data", data), ("total", json!(total))])
            }
            (Formatter::ExtJs, Ok(Reply::Data(data) | Reply::Counted(data, _))) => {
                Self::json(200, "OK", [("data", data), ("success", json!(1))])
            }
            (Formatter::Json, Err(error)) => {
                let mut body = json!({ "data": null });
                // Older servers put the text only into the reason phrase (facts A.1).
                if !old_body {
                    body["message"] = json!(error.message);
                }
                if let Some(errors) = &error.errors {
                    body["errors"] = json!(errors);
                }
                Self::json_of(error.status, &first_line(&error.message), &body)
            }
            (Formatter::ExtJs, Err(error)) => {
                let mut body = json!({ "data": null, "message": error.message, "status": error.status, "success": 0 });
                if let Some(errors) = &error.errors {
                    body["errors"] = json!(errors);
                    body["status"] = json!(error.status.to_string());
                }
                Self::json_of(200, "OK", &body)
            }
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// A request whose outer shape is right.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// How to wrap the answer.
    pub formatter: Formatter,
    /// Path below the formatter, decoded.
    pub path: String,
    /// Parameters of query and body.
    pub params: BTreeMap<String, Value>,
    /// The file that came with an upload.
    pub upload: Option<UploadedFile>,
}

/// The checks that come before authentication.
pub fn parse(request: &HttpRequest) -> Result<Parsed, HttpReply> {
    if !["GET", "POST", "PUT", "DELETE"].contains(&request.method.as_str()) {
        let text = format!("method '{}' not available", request.method);
        return Err(HttpReply::plain(501, text, ""));
    }
    let writes = matches!(request.method.as_str(), "POST" | "PUT");
    if !writes && !request.body.is_empty() {
        let text = format!("Unexpected content for method '{}'", request.method);
        return Err(HttpReply::plain(501, text.clone(), text));
    }
    if request.body.len() > LARGEST_BODY {
        return Err(HttpReply::plain(501, "for data too large", "for data too large"));
    }
    // A path may carry its query.
    let (raw, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let decoded = percent_decode_str(raw).decode_utf8_lossy().into_owned();
    let Some(rest) = decoded.strip_prefix("/api2/") else {
        let text = format!("no such file '{decoded}'");
        return Err(HttpReply::plain(500, text.clone(), format!("{text}\n")));
    };
    let (word, path) = rest
        .split_once('/')
        .map_or((rest, "/".to_owned()), |(word, path)| (word, format!("/{path}")));
    let formatter = match word {
        "json" => Formatter::Json,
        "extjs" => Formatter::ExtJs,
        other => {
            let text = format!("no formatter for uri {path}, {other}");
            return Err(HttpReply::plain(501, text.clone(), text));
        }
    };
    let mut params = BTreeMap::new();
    add_form(&mut params, query.as_bytes());
    add_form(&mut params, request.query.as_bytes());
    let mut upload = None;
    if let Some(boundary) = upload_boundary(request, &path) {
        upload = Some(add_parts(&mut params, &request.body, boundary));
    } else if writes {
        add_body(&mut params, request)?;
    }
    params.remove("_dc");
    Ok(Parsed {
        formatter,
        path,
        params,
        upload,
    })
}

/// What separates the parts of a body, where a file may be sent.
fn upload_boundary<'a>(request: &'a HttpRequest, path: &str) -> Option<&'a str> {
    let (kind, rest) = request.content_type.as_deref()?.split_once(';')?;
    let multipart = kind.trim().eq_ignore_ascii_case("multipart/form-data");
    let allowed = request.method == "POST" && path.ends_with("/upload");
    let boundary = rest.trim().strip_prefix("boundary=")?.trim_matches('"');
    (multipart && allowed && !boundary.is_empty()).then_some(boundary)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// The value of `name="…"` in the head of a part.
fn quoted(head: &str, name: &str) -> Option<String> {
    let rest = head.split_once(&format!(" {name}=\""))?.1;
    Some(rest.split_once('"')?.0.to_owned())
}

/// Adds the fields of a body in parts; of the file, its name is one and the rest is returned.
fn add_parts(params: &mut BTreeMap<String, Value>, body: &[u8], boundary: &str) -> UploadedFile {
    let mut upload = UploadedFile::default();
    let mark = format!("--{boundary}");
    let mut rest = body;
    while let Some(at) = find(rest, mark.as_bytes()) {
        rest = &rest[at + mark.len()..];
        let Some(head_end) = find(rest, b"\r\n\r\n") else { break };
        let head = String::from_utf8_lossy(&rest[..head_end]).into_owned();
        let content = &rest[head_end + 4..];
        let end = find(content, format!("\r\n{mark}").as_bytes()).unwrap_or(content.len());
        let content = &content[..end];
        let Some(name) = quoted(&head, "name") else { continue };
        let value = match quoted(&head, "filename") {
            Some(file) => {
                upload = uploaded(content);
                file
            }
            None => String::from_utf8_lossy(content).into_owned(),
        };
        params.insert(name, Value::String(value));
    }
    upload
}

fn uploaded(content: &[u8]) -> UploadedFile {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let sums = [
        ("sha1", hex(&Sha1::digest(content))),
        ("sha224", hex(&Sha224::digest(content))),
        ("sha256", hex(&Sha256::digest(content))),
        ("sha384", hex(&Sha384::digest(content))),
        ("sha512", hex(&Sha512::digest(content))),
    ];
    UploadedFile {
        size: content.len() as u64,
        sums: sums.into_iter().map(|(name, sum)| (name.to_owned(), sum)).collect(),
    }
}

fn add_body(params: &mut BTreeMap<String, Value>, request: &HttpRequest) -> Result<(), HttpReply> {
    let kind = request.content_type.as_deref().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let place = "at /usr/share/perl5/PVE/APIServer/AnyEvent.pm line";
    match kind.as_str() {
        "" | "application/x-www-form-urlencoded" => add_form(params, &request.body),
        "application/json" if request.body.is_empty() => {}
        "application/json" => match serde_json::from_slice(&request.body) {
            Ok(Value::Object(found)) => params.extend(found),
            Ok(_) => {
                let text = format!("Not a HASH reference {place} 978.");
                return Err(HttpReply::plain(500, text.clone(), format!("{text}\n")));
            }
            Err(error) => {
                let text = malformed(&request.body, &error);
                let text = format!("{text} {place} 934.");
                return Err(HttpReply::plain(500, text.clone(), format!("{text}\n")));
            }
        },
        other => {
            let text = format!("upload 'Content-Type '{other}' not implemented");
            return Err(HttpReply::plain(506, text.clone(), text));
        }
    }
    Ok(())
}

fn malformed(body: &[u8], error: &serde_json::Error) -> String {
    let offset = if error.is_eof() {
        body.len()
    } else {
        error.column().saturating_sub(1).min(body.len())
    };
    let rest = String::from_utf8_lossy(&body[offset..]).into_owned();
    let rest = if rest.is_empty() {
        "(end of string)".to_owned()
    } else {
        rest
    };
    format!(
        "malformed JSON string, neither tag, array, object, number, string or atom, at character offset {offset} \
         (before \"{rest}\")"
    )
}

/// Adds form values; a key that comes twice becomes a list.
fn add_form(params: &mut BTreeMap<String, Value>, text: &[u8]) {
    for (key, value) in form_urlencoded::parse(text) {
        let value = Value::String(value.into_owned());
        match params.get_mut(key.as_ref()) {
            None => {
                params.insert(key.into_owned(), value);
            }
            Some(Value::Array(items)) => items.push(value),
            Some(old) => *old = Value::Array(vec![old.take(), value]),
        }
    }
}
