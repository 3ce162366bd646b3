//! The user's application script and tests.
//!
//! Both contracts put the script and its files into one folder of the guest and start the script there. With the
//! legacy contract that folder is /tmp/phoenix_run and the first argument is the guest's id; an object's tests then
//! lie there too, beside the application's files and each other. A test is always given the guest's id.

use crate::crd::{Application, GuestFile, GuestTest, KeyRef, RUN_TESTS, ScriptContract};
use crate::desired::{Blocked, GuestObject, Objects, RunAs, Script, ScriptFile, ScriptRole, refs};

use super::{Given, RUN, environment, invalid, launcher};

const PHOENIX_FOLDER: &str = "/var/lib/phoenix/application";
/// The same for another user than root: records of scripts, which lie beside the other folder, are root's alone.
const USER_FOLDER: &str = "/var/lib/phoenix-application";
const LEGACY_FOLDER: &str = "/tmp/phoenix_run";
/// The helper library that legacy scripts source, and the names that they know it by.
const LEGACY_UTILS: &str = include_str!("legacy_utils.sh");
const LEGACY_UTILS_NAMES: [&str; 2] = ["phoenix_hypervisor_common_utils.sh", "common_utils.sh"];
/// Seconds for an application script that does not say.
const DEADLINE: i64 = 3600;
/// Seconds for a test that does not say.
const TEST_DEADLINE: i64 = 300;
/// File name of a script that is given inline.
const INLINE_NAME: &str = "script";

/// Begins the body of a legacy script: the managers that it was written for had jq in every guest.
const LEGACY_JQ: &str = r#"#!/bin/sh
command -v jq > /dev/null 2>&1 || {
  if command -v apt-get > /dev/null 2>&1; then
    { [ ! -f /etc/phoenix/proxy.env ] || . /etc/phoenix/proxy.env; } && export http_proxy https_proxy no_proxy
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends jq; } > /dev/null 2>&1 ||
      echo "jq is not there and cannot be installed: add the feature base-setup" >&2
  fi
}
"#;

/// The guest's id, once there is one; it is not part of a script's hash.
fn vmid(object: &GuestObject) -> Vec<String> {
    let vmid = object.status.vmid().or(object.spec_vmid());
    vmid.map(|id| id.to_string()).into_iter().collect()
}

/// Text of a script and the name of its file.
fn source(
    inline: Option<&String>,
    from: Option<&KeyRef>,
    object: &GuestObject,
    objects: &dyn Objects,
    field: &str,
) -> Result<(String, String), Blocked> {
    match (inline, from) {
        (Some(script), _) => Ok((script.clone(), INLINE_NAME.into())),
        (None, Some(reference)) => {
            let field = format!("{field}.scriptFrom");
            let script = refs::config_map_value(objects, &object.key.namespace, reference, &field)?;
            Ok((script, file_name(&reference.key)))
        }
        (None, None) => Err(invalid(format!(
            "{field}: neither script nor scriptFrom is given: give one"
        ))),
    }
}

/// A ConfigMap's key as a file name; keys that are none get a name of Phoenix's.
fn file_name(key: &str) -> String {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !key.starts_with('.') && !key.is_empty() && key.chars().all(fine) {
        return key.to_string();
    }
    INLINE_NAME.to_string()
}

fn folder(application: Option<&Application>) -> Option<&'static str> {
    Some(match application?.contract.unwrap_or_default() {
        ScriptContract::Phoenix if other_user(application?).is_some() => USER_FOLDER,
        ScriptContract::Phoenix => PHOENIX_FOLDER,
        ScriptContract::Legacy => LEGACY_FOLDER,
    })
}

/// Who runs the script, where that is not root.
fn other_user(application: &Application) -> Option<&String> {
    application.user.as_ref().filter(|user| *user != "root")
}

/// The application script.
///
/// # Errors
/// `InvalidSpec`, `ConfigMapNotFound`, `SecretNotFound`.
pub(super) fn script(
    object: &GuestObject,
    application: &Application,
    objects: &dyn Objects,
) -> Result<Script, Blocked> {
    let field = format!("{}.application", object.field_prefix());
    let legacy = application.contract == Some(ScriptContract::Legacy);
    let folder = folder(Some(application)).unwrap_or(PHOENIX_FOLDER);
    let (inline, from) = (application.script.as_ref(), application.script_from.as_ref());
    let (text, name) = source(inline, from, object, objects, &field)?;
    let path = format!("{folder}/{name}");
    let mut given = Given {
        workdir: Some(application.working_directory.clone().unwrap_or_else(|| folder.into())),
        run_as: other_user(application).map(|user| RunAs {
            user: user.clone(),
            folder: folder.into(),
        }),
        files: files(object, application, folder, objects, &field)?,
        ..Given::default()
    };
    if given.files.iter().any(|f| f.path == path) {
        return Err(invalid(format!(
            "{field}.files: {path:?} is where the script itself goes: give the file another name"
        )));
    }
    let body = launcher(&text, &path);
    given.files.push(ScriptFile {
        path,
        content: text,
        mode: if legacy || given.run_as.is_some() {
            "0755"
        } else {
            "0700"
        }
        .into(),
    });
    given.environment = environment(object, application.environment.as_deref(), objects, &field)?;
    let deadline = application.deadline_seconds.unwrap_or(DEADLINE);
    let mut script = given.script(
        ScriptRole::Application,
        "application".into(),
        "application",
        body,
        deadline,
    );
    if legacy {
        script.args = vmid(object);
        add_legacy_helpers(&mut script);
    }
    script.rerun = application.rerun_policy.unwrap_or_default();
    Ok(script)
}

/// What legacy scripts find beside them: the helper library, unless the object brings its own, and jq. Added when the
/// hash is taken already: a new version of Phoenix is no reason to run a script again.
fn add_legacy_helpers(script: &mut Script) {
    for name in LEGACY_UTILS_NAMES {
        let path = format!("{LEGACY_FOLDER}/{name}");
        if !script.files.iter().any(|f| f.path == path) {
            let (content, mode) = (LEGACY_UTILS.into(), "0644".into());
            script.files.insert(0, ScriptFile { path, content, mode });
        }
    }
    script.body = script.body.replacen("#!/bin/sh\n", LEGACY_JQ, 1);
}

/// The application's files, as absolute paths.
fn files(
    object: &GuestObject,
    application: &Application,
    folder: &str,
    objects: &dyn Objects,
    field: &str,
) -> Result<Vec<ScriptFile>, Blocked> {
    let mut files: Vec<ScriptFile> = Vec::new();
    for (i, file) in application.files.iter().flatten().enumerate() {
        let field = format!("{field}.files[{i}]");
        let path = absolute(&file.path, folder, &field)?;
        if files.iter().any(|f| f.path == path) {
            return Err(invalid(format!(
                "{field}.path: {:?} is the path of another file too: give each its own",
                file.path
            )));
        }
        files.push(ScriptFile {
            path,
            content: content(object, file, objects, &field)?,
            mode: file.mode.clone().unwrap_or_else(|| "0644".into()),
        });
    }
    Ok(files)
}

fn content(object: &GuestObject, file: &GuestFile, objects: &dyn Objects, field: &str) -> Result<String, Blocked> {
    match (&file.content, &file.content_from) {
        (Some(content), _) => Ok(content.clone()),
        (None, Some(reference)) => {
            let field = format!("{field}.contentFrom");
            refs::config_map_value(objects, &object.key.namespace, reference, &field)
        }
        (None, None) => Err(invalid(format!(
            "{field}: neither content nor contentFrom is given: give one"
        ))),
    }
}

/// The path of a file, relative ones below `folder`.
fn absolute(path: &str, folder: &str, field: &str) -> Result<String, Blocked> {
    let names: Vec<&str> = path.split('/').filter(|n| !n.is_empty() && *n != ".").collect();
    let bad = names.is_empty() || path.ends_with('/') || names.contains(&"..") || path.contains(char::is_control);
    if bad {
        return Err(invalid(format!(
            "{field}.path: {path:?} is not the path of a file: give an absolute path or a name beside the script, \
             without '..' and line breaks"
        )));
    }
    let below = if path.starts_with('/') { "" } else { folder };
    Ok(format!("{below}/{}", names.join("/")))
}

/// The tests of an object, in the spec's order.
///
/// # Errors
/// `InvalidSpec`, `ConfigMapNotFound`.
pub(super) fn tests(
    object: &GuestObject,
    application: Option<&Application>,
    objects: &dyn Objects,
) -> Result<Vec<Script>, Blocked> {
    let mut sources: Vec<(&GuestTest, String, String)> = Vec::new();
    for test in object.tests() {
        let field = format!("spec.tests[{}]", test.name);
        let (text, name) = source(test.script.as_ref(), test.script_from.as_ref(), object, objects, &field)?;
        sources.push((test, text, name));
    }
    let legacy = application.filter(|a| a.contract == Some(ScriptContract::Legacy));
    let mut beside = match legacy {
        Some(application) => {
            let field = format!("{}.application", object.field_prefix());
            files(object, application, LEGACY_FOLDER, objects, &field)?
        }
        None => Vec::new(),
    };
    if legacy.is_some() {
        // Legacy tests call each other by name; inline ones have none that another could know.
        for (_, text, name) in sources.iter().filter(|(test, ..)| test.script.is_none()) {
            let path = format!("{LEGACY_FOLDER}/{name}");
            if !beside.iter().any(|f| f.path == path) {
                beside.push(executable(path, text));
            }
        }
    }
    let script = |(test, text, name): &(&GuestTest, String, String)| {
        let id = format!("test-{}", test.name);
        let folder = match legacy {
            Some(_) => LEGACY_FOLDER.to_string(),
            None => format!("{RUN}/{id}"),
        };
        let name = match (legacy, &test.script) {
            (Some(_), Some(_)) => id.as_str(),
            _ => name.as_str(),
        };
        let path = format!("{folder}/{name}");
        let mut files = beside.clone();
        files.retain(|f| f.path != path);
        let body = launcher(text, &path);
        files.push(executable(path, text));
        let given = Given {
            files,
            workdir: Some(folder),
            owner: Some(match object.annotations.get(RUN_TESTS) {
                Some(request) => format!("{} {request}", object.key),
                None => object.key.to_string(),
            }),
            ..Given::default()
        };
        let deadline = test.deadline_seconds.unwrap_or(TEST_DEADLINE);
        let mut script = given.script(ScriptRole::Test, id, &test.name, body, deadline);
        script.args = vmid(object);
        if legacy.is_some() {
            add_legacy_helpers(&mut script);
        }
        script
    };
    Ok(sources.iter().map(script).collect())
}

fn executable(path: String, text: &str) -> ScriptFile {
    ScriptFile {
        path,
        content: text.to_string(),
        mode: "0755".into(),
    }
}
