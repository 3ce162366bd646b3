//! Thresholds, order and pauses of probes, by tables over the engine's clock.

use crate::crd::TcpSocketAction;

use super::*;

fn tcp() -> Probe {
    Probe {
        tcp_socket: Some(TcpSocketAction { port: 80, host: None }),
        ..Probe::default()
    }
}

fn fresh(health: &Health) -> HealthState {
    HealthState::new(health, Some(1), 0)
}

fn failed() -> ProbeAnswer {
    ProbeAnswer::Failed("no".into())
}

fn unknown() -> ProbeAnswer {
    ProbeAnswer::Unknown(crate::reason::Cause {
        reason: Reason::SSHUnreachable,
        message: "gone".into(),
    })
}

/// What is due, and what has failed for good, after each answer (second, kind, answer).
fn follow(health: &Health, steps: &[(i64, ProbeKind, ProbeAnswer)]) -> Vec<(Vec<ProbeKind>, Option<ProbeKind>)> {
    let mut state = fresh(health);
    let mut seen = Vec::new();
    for (second, kind, answer) in steps {
        let answers = BTreeMap::from([(*kind, answer.clone())]);
        let verdict = judge(state, &answers, second * 1000);
        seen.push((verdict.due, verdict.restart));
        state = verdict.state;
    }
    seen
}

#[test]
fn a_probe_is_due_after_its_delay_and_then_every_period() {
    let mut probe = tcp();
    (probe.initial_delay_seconds, probe.period_seconds) = (Some(5), Some(3));
    let health = Health {
        readiness: Some(probe),
        ..Health::default()
    };
    let none = BTreeMap::new();
    let at = |state: &HealthState, second: i64| {
        let verdict = judge(state.clone(), &none, second * 1000);
        (verdict.due.len(), verdict.next)
    };
    let state = fresh(&health);
    assert_eq!(at(&state, 0), (0, 5000));
    assert_eq!(at(&state, 4), (0, 1000));
    assert_eq!(at(&state, 5), (1, 0));
    let answers = BTreeMap::from([(ProbeKind::Readiness, ProbeAnswer::Succeeded(None))]);
    let state = judge(state, &answers, 6000).state;
    assert_eq!(at(&state, 6), (0, 3000));
    assert_eq!(at(&state, 9), (1, 0));
    // What is under way is not asked a second time, and looked for soon.
    let answers = BTreeMap::from([(ProbeKind::Readiness, ProbeAnswer::UnderWay)]);
    let verdict = judge(state.clone(), &answers, 9000);
    assert_eq!((verdict.due.len(), verdict.next), (0, UNDER_WAY));
    assert_eq!(verdict.state, state, "it counts for nothing");
}

#[test]
fn the_startup_probe_holds_the_others_back_and_restarts_what_never_starts() {
    use ProbeKind::*;
    let mut startup = tcp();
    startup.failure_threshold = Some(2);
    let health = Health {
        startup: Some(startup),
        readiness: Some(tcp()),
        liveness: Some(tcp()),
        restart_unit: None,
    };
    let seen = follow(
        &health,
        &[
            (0, Startup, failed()),
            (10, Startup, ProbeAnswer::Succeeded(None)),
            (20, Liveness, failed()),
        ],
    );
    assert_eq!(
        seen,
        [
            (vec![], None),
            (vec![Readiness, Liveness], None),
            (vec![Readiness], None)
        ]
    );
    let seen = follow(&health, &[(0, Startup, failed()), (10, Startup, failed())]);
    assert_eq!(seen[1], (vec![], Some(Startup)));
}

#[test]
fn only_failures_in_a_row_restart_and_readiness_never_does() {
    use ProbeKind::*;
    let health = Health {
        readiness: Some(tcp()),
        liveness: Some(tcp()),
        ..Health::default()
    };
    let restarts = |kind: ProbeKind, answers: &[ProbeAnswer]| {
        let steps: Vec<_> = answers
            .iter()
            .zip(0..)
            .map(|(a, n)| (n * 10, kind, a.clone()))
            .collect();
        follow(&health, &steps).last().and_then(|(_, restart)| *restart)
    };
    let (f, s, u) = (failed(), ProbeAnswer::Succeeded(None), unknown());
    assert_eq!(restarts(Liveness, &[f.clone(), f.clone()]), None);
    assert_eq!(restarts(Liveness, &[f.clone(), f.clone(), f.clone()]), Some(Liveness));
    assert_eq!(restarts(Liveness, &[f.clone(), f.clone(), s, f.clone()]), None);
    // A connection that is lost says nothing of the guest: it neither counts nor ends the row.
    assert_eq!(restarts(Liveness, &[u.clone(), u.clone(), u.clone(), u.clone()]), None);
    assert_eq!(
        restarts(Liveness, &[f.clone(), f.clone(), u, f.clone()]),
        Some(Liveness)
    );
    assert_eq!(restarts(Readiness, &[f.clone(), f.clone(), f.clone(), f]), None);
}

#[test]
fn pauses_between_restarts_double_and_end_after_a_calm_time() {
    let mut before = None;
    let mut now = 1_000_000;
    for pause in [10, 20, 40, 80, 160, 300, 300] {
        let restarts = counted(before.as_ref(), now);
        assert_eq!(held_back(Some(&restarts), now), Some(now + pause));
        assert_eq!(held_back(Some(&restarts), now + pause), None);
        now += pause;
        before = Some(restarts);
    }
    assert_eq!(before.as_ref().map(|r| (r.count, r.in_a_row)), Some((7, 7)));
    let calm = counted(before.as_ref(), now + CALM);
    assert_eq!((calm.count, calm.in_a_row), (8, 1));
    assert_eq!(held_back(None, now), None);
}
