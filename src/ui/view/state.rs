//! How an object stands, in one word and one of a few states that have a colour and a mark of their own in the style sheet.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::desired::GuestObject;
use crate::reason::Reason;
use crate::status::TRANSIENT;

/// How something stands. The order is that of attention: what comes first is shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing goes on until somebody mends something.
    Stalled,
    /// It is as wanted, and something about it needs attention.
    Attention,
    /// Nothing is known of it, as when its node is away.
    Unknown,
    /// Something else comes first.
    Waiting,
    /// Under way.
    Working,
    /// Somebody paused it.
    Paused,
    /// It is as wanted.
    Ready,
}

impl State {
    /// All of them, in their order.
    pub const ALL: [State; 7] = [
        State::Stalled,
        State::Attention,
        State::Unknown,
        State::Waiting,
        State::Working,
        State::Paused,
        State::Ready,
    ];

    /// Its name: a word of the page, of its filter and of the style sheet.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Stalled => "stalled",
            State::Attention => "attention",
            State::Unknown => "unknown",
            State::Waiting => "waiting",
            State::Working => "working",
            State::Paused => "paused",
            State::Ready => "ready",
        }
    }

    /// Whether somebody should look at it.
    pub fn is_problem(self) -> bool {
        matches!(self, State::Stalled | State::Attention | State::Unknown)
    }
}

/// A condition as one mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// How it stands.
    pub state: State,
    /// Its type.
    pub condition: String,
    /// True, False or Unknown.
    pub status: String,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// Since when.
    pub since: String,
}

/// Whether a condition of this type holds.
fn holds<'c>(conditions: &'c [Condition], type_: &str) -> Option<&'c Condition> {
    conditions.iter().find(|c| c.type_ == type_ && c.status == "True")
}

/// Whether it is bad news where a condition of this type holds.
fn is_news(type_: &str) -> bool {
    TRANSIENT.contains(&type_) || type_ == "DeletionBlocked"
}

/// Conditions as marks, in their order. A guest that is stalled has parts that failed; of another they are only not there
/// yet.
pub fn marks(conditions: &[Condition]) -> Vec<Mark> {
    let stalled = holds(conditions, "Stalled").is_some();
    let ready = holds(conditions, "Ready").is_some();
    let state = |c: &Condition| match (c.type_.as_str(), c.status.as_str()) {
        ("Stalled", "True") => State::Stalled,
        ("Reconciling", "True") => State::Working,
        ("Paused", "True") => State::Paused,
        (type_, "True") if is_news(type_) => State::Attention,
        (type_, "False") if is_news(type_) || ["Stalled", "Reconciling", "Paused"].contains(&type_) => State::Ready,
        (_, "True") => State::Ready,
        // A template, or a guest that is to be stopped, does not run.
        (_, "False") if ready && Reason::named(&c.reason) == Some(Reason::Stopped) => State::Ready,
        (_, "False") if stalled => State::Stalled,
        (_, "False") => State::Waiting,
        _ => State::Unknown,
    };
    let mark = |c: &Condition| Mark {
        state: state(c),
        condition: c.type_.clone(),
        status: c.status.clone(),
        reason: c.reason.clone(),
        message: c.message.clone(),
        since: c.last_transition_time.0.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    };
    conditions.iter().map(mark).collect()
}

/// The Ready condition, where it does not hold.
pub fn unready(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == "Ready" && c.status != "True")
}

/// How an object with these conditions stands; `current`: they speak of its present spec.
pub fn state(conditions: &[Condition], current: bool) -> State {
    let news = || conditions.iter().any(|c| c.status == "True" && is_news(&c.type_));
    let waits = |c: &Condition| {
        let reason = Reason::named(&c.reason);
        reason.is_some_and(|r| r.waits_for_another() || r.may_be_created() || r == Reason::TemplateBusy)
    };
    match unready(conditions) {
        _ if conditions.is_empty() => State::Waiting,
        _ if holds(conditions, "Stalled").is_some() && current => State::Stalled,
        _ if holds(conditions, "Paused").is_some() => State::Paused,
        Some(c) if c.status == "Unknown" => State::Unknown,
        Some(c) if waits(c) => State::Waiting,
        Some(_) => State::Working,
        None if !current => State::Working,
        None if news() => State::Attention,
        None => State::Ready,
    }
}

/// How a guest object stands, and the word for it: its phase, as `kubectl get` shows it.
pub fn of_guest(object: &GuestObject) -> (State, String) {
    let status = &object.status;
    let current = status.observed_generation == Some(object.generation);
    let state = match state(&status.conditions, current) {
        State::Ready if object.deleting => State::Working,
        State::Working if status.phase.as_deref() == Some("Waiting") => State::Waiting,
        state => state,
    };
    let phase = status.phase.clone().filter(|p| !p.is_empty());
    (state, phase.unwrap_or_else(|| "Pending".into()))
}
