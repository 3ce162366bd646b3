//! Asks Argo CD's own code and kstatus (e2e/gitops) what they conclude from objects.

#![allow(dead_code, reason = "shared by several targets, of which none uses all of it")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

/// The program, built when it is not there: minutes at the first run ever, nothing later.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut build = Command::new(repository("e2e/build-gitops.sh"));
    let output = build.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "e2e/build-gitops.sh: {}", output.status);
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
});

/// A path inside the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What is concluded from an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdicts {
    pub argocd: (String, String),
    pub flux: (String, String),
    /// Actions that Argo CD offers: whether they can be chosen.
    pub actions: BTreeMap<String, bool>,
}

/// What is concluded from each of these objects.
pub fn judge(objects: &[Value]) -> Vec<Verdicts> {
    let questions = objects.iter().map(|object| json!({"object": object}));
    let answers = ask(questions.collect());
    let pair = |verdict: &Value| {
        let text = |key: &str| verdict[key].as_str().unwrap_or_default().to_string();
        (text("status"), text("message"))
    };
    let action = |action: &Value| {
        let name = action["name"].as_str().unwrap().to_string();
        (name, action["disabled"] != true)
    };
    let verdicts = answers.iter().zip(objects).map(|(answer, object)| {
        assert!(answer["error"].is_null(), "{answer}\n{object:#}");
        Verdicts {
            argocd: pair(&answer["argocd"]),
            flux: pair(&answer["flux"]),
            actions: answer["actions"].as_array().into_iter().flatten().map(action).collect(),
        }
    });
    verdicts.collect()
}

/// The object as an action of Argo CD leaves it, or why it cannot be carried out.
pub fn act(object: &Value, action: &str) -> Result<Value, String> {
    let answer = ask(vec![json!({"object": object, "action": action})]).remove(0);
    match answer["error"].as_str() {
        Some(error) => Err(error.into()),
        None => Ok(answer["object"].clone()),
    }
}

/// What Argo CD would change of a live object, of which this is in Git; nothing where it calls it Synced.
pub fn difference(wanted: &Value, live: &Value) -> Option<Value> {
    let mut answer = ask(vec![json!({"wanted": wanted, "object": live})]).remove(0);
    assert!(answer["error"].is_null(), "{answer}\n{live:#}");
    Some(answer["predicted"].take()).filter(|predicted| !predicted.is_null())
}

/// Whether an object of Argo CD's own has only fields that there are; what is wrong with it.
pub fn known_fields(object: &Value) -> Result<(), String> {
    let answer = ask(vec![json!({"object": object, "strict": true})]).remove(0);
    answer["error"].as_str().map_or(Ok(()), |error| Err(error.into()))
}

fn ask(questions: Vec<Value>) -> Vec<Value> {
    let mut program = Command::new(&*PROGRAM)
        .arg(repository("examples/argocd/values.yaml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    let lines: String = questions.iter().map(|question| format!("{question}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = program.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let answers = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let answers: Vec<Value> = answers.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}
