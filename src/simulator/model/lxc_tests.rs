//! Rules for containers that a client may rest on: what is read back, what a refusal leaves, what cannot start.

use std::collections::BTreeMap;

use super::lxc_config::Change;
use super::{Caller, Edit, State};
use crate::simulator::profile::{Profile, Secrets};

const DISKS: &str = "quickOS-lxc-disks";

/// A node with one container, whose root disk has 8 GiB.
fn state(vmid: u32) -> State {
    let mut state = Profile::Homelab.state(None, &Secrets::default(), 1_795_408_000_000);
    let made = Edit::CreateGuest {
        vmid,
        node: None,
        vm: false,
        options: [("unprivileged".to_owned(), "1".to_owned())].into(),
        storage: Some(DISKS.to_owned()),
    };
    state.edit(made).unwrap();
    state
}

fn put(state: &mut State, vmid: u32, set: &[(&str, &str)], delete: &[&str]) -> super::Result<()> {
    let change = Change {
        set: set
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        delete: delete.iter().map(|key| (*key).to_owned()).collect(),
        given: true,
        ..Change::default()
    };
    state.update_ct(&Caller::root(), "phoenix", vmid, &change)
}

fn option(state: &State, vmid: u32, key: &str) -> Option<String> {
    state.guests[&vmid].config().current.get(key).map(str::to_owned)
}

fn start(state: &mut State, vmid: u32) -> String {
    let upid = state.start_ct(&Caller::root(), "phoenix", vmid, false).unwrap();
    state.end_now(&upid).unwrap()
}

#[test]
fn a_raw_line_that_proxmox_does_not_know_is_never_read_back_and_goes_at_the_next_write() {
    let mut state = state(950);
    let text = format!(
        "{}lxc.sysctl.vm.max_map_count: 1\nlxc.apparmor.profile: unconfined\n",
        state.guests[&950].text()
    );
    state.write_config_file(950, &text, None).unwrap();
    assert!(state.guests[&950].text().contains("max_map_count"));
    let kept = [("lxc.apparmor.profile".to_owned(), "unconfined".to_owned())];
    assert_eq!(state.guests[&950].config().current.lxc, kept);
    put(&mut state, 950, &[("memory", "1024")], &[]).unwrap();
    assert!(!state.guests[&950].text().contains("max_map_count"));
    assert_eq!(state.guests[&950].config().current.lxc, kept);
}

#[test]
fn a_container_does_not_start_with_capabilities_that_lxc_cannot_load() {
    let mut state = state(950);
    for (value, exit) in [
        ("sys_admin,net_raw", "startup for container '950' failed"),
        ("sys_admin net_raw", "OK"),
    ] {
        let text = format!("{}lxc.cap.keep: {value}\n", state.guests[&950].text());
        state.write_config_file(950, &text, None).unwrap();
        assert_eq!(start(&mut state, 950), exit, "{value}");
        let clean = text.replace(&format!("lxc.cap.keep: {value}\n"), "");
        state.write_config_file(950, &clean, None).unwrap();
    }
}

#[test]
fn an_error_of_one_option_leaves_all_options_of_the_call_as_they_were() {
    let mut state = state(950);
    assert_eq!(start(&mut state, 950), "OK");
    let before = state.guests[&950].text().to_owned();
    let set = [
        ("memory", "1024"),
        ("mp0", "/nowhere,mp=/x"),
        ("net0", "name=eth0,bridge=vmbr9"),
        ("nameserver", "10.0.0.1"),
    ];
    let error = put(&mut state, 950, &set, &[]).unwrap_err();
    let errors = error.errors.unwrap_or_default();
    let said: Vec<(&str, &str)> = errors.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
    let expected = [
        ("mp0", "unable to hotplug mp0: directory '/nowhere' does not exist\n"),
        ("net0", "unable to hotplug net0: bridge 'vmbr9' does not exist\n"),
    ];
    assert_eq!((error.status, said), (400, expected.to_vec()));
    assert_eq!(state.guests[&950].text(), before);
}

#[test]
fn deleting_several_unused_volumes_frees_those_before_the_one_that_fails_and_writes_nothing() {
    let mut state = state(950);
    for key in ["mp0", "mp1"] {
        put(&mut state, 950, &[(key, &format!("{DISKS}:1,mp=/{key}"))], &[]).unwrap();
    }
    put(&mut state, 950, &[], &["mp0", "mp1"]).unwrap();
    let second = option(&state, 950, "unused1").unwrap();
    // A linked clone of the second keeps it from being freed.
    let storage = state.storages.get_mut(DISKS).unwrap();
    let clone = super::storage::Volume {
        parent: second.split_once(':').map(|(_, name)| name.to_owned()),
        ..Default::default()
    };
    storage.insert("phoenix", "basevol-950-disk-2/subvol-951-disk-0", clone);
    let before = state.guests[&950].text().to_owned();
    let error = put(&mut state, 950, &[], &["unused0", "unused1"]).unwrap_err();
    let errors: BTreeMap<String, String> = error.errors.unwrap_or_default();
    assert!(
        errors["unused1"].starts_with("unable to apply pending change unused1 : base volume "),
        "{errors:?}"
    );
    assert_eq!(state.guests[&950].text(), before);
    let first = option(&state, 950, "unused0").unwrap();
    assert!(state.volume("phoenix", &first).is_none() && state.volume("phoenix", &second).is_some());
}

#[test]
fn the_size_of_a_mount_point_is_that_of_its_volume() {
    let mut state = state(950);
    put(&mut state, 950, &[("mp0", &format!("{DISKS}:2,mp=/a,size=9T"))], &[]).unwrap();
    let volume = format!("{DISKS}:subvol-950-disk-1");
    assert_eq!(option(&state, 950, "mp0"), Some(format!("{volume},mp=/a,size=2G")));
    put(&mut state, 950, &[("mp0", &format!("{volume},mp=/b,size=4T"))], &[]).unwrap();
    assert_eq!(option(&state, 950, "mp0"), Some(format!("{volume},mp=/b,size=2G")));
    put(
        &mut state,
        950,
        &[("mp1", &format!("{DISKS}:subvol-950-disk-7,mp=/c,size=1G"))],
        &[],
    )
    .unwrap();
    assert_eq!(
        option(&state, 950, "mp1"),
        Some(format!("{DISKS}:subvol-950-disk-7,mp=/c"))
    );
}

#[test]
fn pending_changes_come_into_force_at_a_stop_and_a_delete_wins_over_a_pending_value_until_then() {
    let mut state = state(950);
    put(&mut state, 950, &[("console", "1")], &[]).unwrap();
    assert_eq!(start(&mut state, 950), "OK");
    put(&mut state, 950, &[("console", "0"), ("tty", "3")], &[]).unwrap();
    put(&mut state, 950, &[], &["console"]).unwrap();
    let config = state.guests[&950].config();
    assert_eq!(config.pending.get("console").map(String::as_str), Some("0"));
    assert!(config.pending_delete.contains_key("console"));
    let seen = super::lxc_config::with_pending(config);
    assert_eq!((seen.get("console"), seen.get("tty")), (None, Some("3")));
    let upid = state.stop_ct(&Caller::root(), "phoenix", 950, false, false).unwrap();
    assert_eq!(state.end_now(&upid).as_deref(), Some("OK"));
    assert_eq!(option(&state, 950, "console").as_deref(), Some("0"));
    assert_eq!(option(&state, 950, "tty").as_deref(), Some("3"));
    assert!(state.guests[&950].config().pending.is_empty());
}

#[test]
fn a_failed_creation_frees_only_the_volumes_that_it_made() {
    let mut state = state(950);
    let kept = state.alloc_ct_volume("phoenix", DISKS, 960, 1 << 30).unwrap();
    state.task_faults.push(super::state::TaskFault {
        kind: "vzcreate".to_owned(),
        id: Some("960".to_owned()),
        message: "no".to_owned(),
        count: 1,
    });
    let request = super::lxc_create::CreateRequest {
        vmid: 960,
        ostemplate: "fastData-shared-iso:vztmpl/ubuntu-24.04-standard_24.04-2_amd64.tar.zst".to_owned(),
        options: [
            ("rootfs".to_owned(), format!("{DISKS}:1")),
            ("mp0".to_owned(), format!("{kept},mp=/x")),
        ]
        .into(),
        ..Default::default()
    };
    let upid = state.create_ct(&Caller::root(), "phoenix", request).unwrap();
    assert_eq!(state.end_now(&upid).as_deref(), Some("no"));
    assert!(!state.guests.contains_key(&960));
    let left: Vec<String> = state.storages[DISKS]
        .on("phoenix")
        .filter(|(_, volume)| volume.owner == Some(960))
        .map(|(name, _)| format!("{DISKS}:{name}"))
        .collect();
    assert_eq!(left, [kept]);
}
