//! What is told of steps and scripts, and what a creating call carries.

use crate::crd::{RerunPolicy, VolumeStatus};
use crate::desired::{Channels, Script, ScriptRole};
use crate::pve::ApiCall;

use super::*;

#[test]
fn a_step_is_told_as_what_it_did() {
    let reason = |action: &str, stage: Stage, announce: Vec<Announce>, impact: Impact| {
        let step = Step {
            action: action.into(),
            stage,
            announce,
            effect: Effect::task(NODE, ApiCall::post("/nodes/pve1/lxc/100/config")).with(impact),
            apart: None,
        };
        let plan = Plan {
            next: Next::Done,
            findings: vec![],
            facts: Facts::default(),
            partial: false,
        };
        crate::plan::told(&plan, &step).map(|cause| cause.reason)
    };
    let volume = || vec![Announce::Volume(VolumeStatus::default())];
    let (configured, volumes) = (Stage::Configured, Stage::VolumesReady);
    for (found, expected) in [
        (
            reason(
                "create container 100",
                Stage::Created,
                vec![Announce::CreateSent],
                Impact::Create,
            ),
            Some(Reason::Created),
        ),
        (
            reason("configure container 100", configured, vec![], Impact::Live),
            Some(Reason::Configured),
        ),
        (
            reason(
                "configure container 100",
                configured,
                vec![Announce::CreateSent],
                Impact::Live,
            ),
            Some(Reason::Configured),
        ),
        (
            reason("attach tank:1", volumes, vec![], Impact::Live),
            Some(Reason::VolumesChanged),
        ),
        (
            reason("allocate data", configured, volume(), Impact::Live),
            Some(Reason::VolumesChanged),
        ),
        (
            reason("create owner container 900", Stage::Created, vec![], Impact::Create),
            Some(Reason::VolumesChanged),
        ),
        (
            reason("protect owner container 900", volumes, vec![], Impact::Live),
            None,
        ),
        (
            reason("destroy container 100", Stage::Created, vec![], Impact::Destroy),
            Some(Reason::Destroyed),
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn a_script_that_failed_is_told_with_how_it_ended() {
    let told = |attempt: i64, exit_code: i64, ssh: bool| {
        let mut scene = Scene::container("");
        scene.guest.running = true;
        scene.desired.channels = Channels {
            ssh,
            ..scene.desired.channels
        };
        scene.desired.scripts = vec![Script {
            id: "feature-docker".into(),
            name: "feature docker".into(),
            role: ScriptRole::Feature,
            hash: "h".into(),
            body: String::new(),
            args: vec![],
            environment: BTreeMap::new(),
            files: vec![],
            workdir: None,
            run_as: None,
            deadline_seconds: 60,
            rerun: RerunPolicy::OnChange,
            keep_output: true,
        }];
        let record = ScriptRecord {
            hash: "h".into(),
            attempt,
            exit_code: Some(exit_code),
            output: "no space left".into(),
            ended_at: Some(1_000_000),
            ..ScriptRecord::default()
        };
        scene.observed.scripts = Some(Ok(BTreeMap::from([("feature-docker".to_string(), record)])));
        let mut planner = Planner::new(scene.input(&scene.observed, &|| Ok(())));
        match planner.scripts(&scene.guest) {
            Err(Next::Wait { cause, .. } | Next::Stuck(cause)) => format!("{}: {}", cause.reason, cause.message),
            other => format!("{other:?}"),
        }
    };
    let failed = told(5, 1, true);
    assert!(
        failed.starts_with("ScriptFailed: feature docker failed 5 times, last with exit code 1: no space left"),
        "{failed}"
    );
    let later = told(1, 124, true);
    assert!(
        later.starts_with("ScriptFailed: feature docker failed (") && later.contains("60"),
        "{later}"
    );
    let unreachable = told(1, 1, false);
    assert!(!unreachable.contains("feature docker"), "{unreachable}");
}

#[test]
fn a_creating_call_carries_what_cannot_be_set_later_and_nothing_else() {
    let created = |fields: &str| {
        let mut scene = Scene::container(fields);
        scene.status().create_sent = None;
        scene.observed.guest = Some(GuestRead::NotFound);
        scene.observed.cluster.guests.clear();
        let image = Image {
            present: true,
            ..Image::default()
        };
        let volid = scene
            .desired
            .source
            .as_ref()
            .and_then(crate::desired::Source::image_volid);
        scene.observed.images.insert(volid.unwrap(), Ok(image));
        let next = scene.next();
        assert!(next.starts_with("POST /nodes/pve1/lxc vmid=100"), "{next}");
        next
    };
    let nesting = "features=nesting=1";
    for (fields, carried, expected) in [
        ("capabilities: {nesting: true}", nesting, true),
        ("capabilities: {nesting: false}", nesting, false),
        ("capabilities: {nesting: true}, unprivileged: false", nesting, false),
        ("cores: 3", "cores=3", true),
        ("hookscript: 'local:snippets/a.sh'", "hookscript=", false),
    ] {
        let next = created(fields);
        assert_eq!(next.contains(&format!(" {carried}")), expected, "{fields}: {next}");
    }
}

#[test]
fn firewall_options_are_written_where_they_differ_from_what_is_in_force() {
    let next = |fields: &str, have: &[(&str, &str)]| {
        let mut scene = Scene::container(&format!("firewall: {fields}"));
        let options = have.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        scene.observed.firewall = Some(Ok(FirewallState {
            options: options.collect(),
            ..FirewallState::default()
        }));
        scene.stage(|p| p.firewall(&scene.guest)).0
    };
    let put = "PUT /nodes/pve1/lxc/100/firewall/options";
    assert_eq!(next("{enabled: false}", &[]), "as wanted", "Proxmox's default");
    assert_eq!(next("{enabled: true}", &[]), format!("{put} enable=1"));
    assert_eq!(next("{enabled: false}", &[("enable", "1")]), format!("{put} enable=0"));
    assert_eq!(next("{enabled: true}", &[("enable", "1")]), "as wanted");
    assert_eq!(next("{inboundPolicy: DROP}", &[]), format!("{put} policy_in=DROP"));
}

#[test]
fn only_a_device_that_phoenix_wrote_and_the_spec_dropped_is_on_its_way_out() {
    let mut scene = Scene::container("").with(&[("dev0", "/dev/ttyUSB0,mode=0666"), ("dev1", "/dev/ttyUSB1")]);
    scene.status().managed = Some(vec!["device./dev/ttyUSB0".into()]);
    let planner = Planner::new(scene.input(&scene.observed, &|| Ok(())));
    let drops = |option| planner.drops_device(&scene.guest, option);
    assert_eq!([drops("dev0"), drops("dev1"), drops("dev2")], [true, false, false]);
}
