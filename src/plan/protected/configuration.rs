//! What is written into a configuration, and what is left alone (promises 3 and 4).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::crd::DriftPolicy;

use super::*;

type Options = &'static [(&'static str, &'static str)];

fn configured(scene: &Scene) -> String {
    scene.stage(|p| p.configured(scene.lxc(), &scene.guest)).0
}

/// A clone that was never started, with what its template had.
fn fresh(spec: &str, options: &[(&str, &str)]) -> Scene {
    Scene::container(spec)
        .stamped(|s| s.fresh = true)
        .with(&[("tags", "phoenix")])
        .with(options)
}

fn settled(spec: &str, options: &[(&str, &str)]) -> Scene {
    Scene::container(spec).with(&[("tags", "phoenix")]).with(options)
}

#[test]
fn no_disk_is_asked_to_shrink() {
    let disk = ("rootfs", "tank:subvol-100-disk-0,size=8G");
    let smaller = configured(&settled("rootfs: {size: 4Gi}", &[disk]));
    assert!(!smaller.contains("resize"), "{smaller}");
    let larger = configured(&settled("rootfs: {size: 9Gi}", &[disk]));
    assert_eq!(
        larger,
        "PUT /nodes/pve1/lxc/100/resize disk=rootfs size=9G digest=of-the-read"
    );
    for (size, text) in [("8704Mi", "8704M"), ("10240Mi", "10G")] {
        let larger = configured(&settled(&format!("rootfs: {{size: {size}}}"), &[disk]));
        assert!(larger.contains(&format!("size={text} ")), "{larger}");
    }
}

/// LVM makes 516Mi of 513Mi. A configuration has the one or the other, and Proxmox refuses to "grow" to what is there.
#[test]
fn what_a_storage_rounds_up_is_neither_grown_nor_told() {
    let told = |type_: &str, volid: &str, wanted: &str, have: &str| {
        let spec = format!("rootfs: {{size: {wanted}}}");
        let rootfs = format!("{volid},size={have}");
        let mut scene = settled(&spec, &[("rootfs", &rootfs)]);
        scene.status().rootfs_size = Some("513Mi".into());
        let storages = scene.observed.cluster.storages.values_mut();
        storages.for_each(|row| row.type_ = type_.into());
        let (next, (findings, _)) = scene.stage(|p| p.configured(scene.lxc(), &scene.guest));
        match (next, findings.iter().any(|f| f.condition == "LargerThanSpec")) {
            (next, true) => format!("{next}, larger"),
            (next, false) => next,
        }
    };
    const IMAGE: &str = "tank:vm-100-disk-0";
    let grown = |size: &str| format!("PUT /nodes/pve1/lxc/100/resize disk=rootfs size={size} digest=of-the-read");
    for type_ in ["lvm", "lvmthin"] {
        for (wanted, have) in [
            ("513Mi", "516M"),
            ("513Mi", "513M"),
            ("516Mi", "513M"),
            ("515Mi", "516M"),
        ] {
            assert_eq!(told(type_, IMAGE, wanted, have), "as wanted", "{wanted} {have}");
        }
        assert_eq!(told(type_, IMAGE, "517Mi", "513M"), grown("517M"));
        assert_eq!(told(type_, IMAGE, "513Mi", "520M"), "as wanted, larger");
        assert_eq!(told(type_, "tank:vm-100-disk-0.qcow2", "515Mi", "513M"), grown("515M"));
    }
    assert_eq!(told("zfspool", IMAGE, "515Mi", "513M"), grown("515M"));
    assert_eq!(told("dir", IMAGE, "513Mi", "516M"), "as wanted, larger");
}

#[test]
fn what_an_earlier_release_noted_of_a_size_counts() {
    let disk = ("rootfs", "tank:subvol-100-disk-0,size=12G");
    for (noted, next) in [(8, "as wanted"), (12, "stuck ShrinkRefused")] {
        let mut scene = settled("rootfs: {size: 8704Mi}", &[disk]);
        scene.status().rootfs_gib = Some(noted);
        assert_eq!(configured(&scene), next);
    }
}

#[test]
fn what_a_clone_copied_unasked_is_cleared_before_its_first_start() {
    for (option, value) in [
        ("protection", "1"),
        ("onboot", "1"),
        ("startup", "order=1"),
        ("hookscript", "local:snippets/theirs.sh"),
    ] {
        let next = configured(&fresh("", &[(option, value)]));
        assert!(next.contains(&format!("delete={option}")), "{option}: {next}");
        // Of a guest that has been at work since it is nobody's copy.
        assert_eq!(configured(&settled("", &[(option, value)])), "as wanted", "{option}");
    }
}

#[test]
fn an_interface_of_a_clone_keeps_nothing_but_its_address_of_hardware() {
    let copied = "name=eth0,bridge=vmbr7,hwaddr=BC:24:11:00:00:07,ip=10.0.0.9/24,gw=10.0.0.1,tag=7,mtu=9000,firewall=1,type=veth";
    let wanted = "network: [{name: eth0, ip: dhcp}]";
    let next = configured(&fresh(wanted, &[("net0", copied)]));
    for kept in ["name=eth0", "hwaddr=BC:24:11:00:00:07", "bridge=vmbr0", "ip=dhcp"] {
        assert!(next.contains(kept), "{kept}: {next}");
    }
    for gone in ["gw=", "tag=", "mtu=", "firewall="] {
        assert!(!next.contains(gone), "{gone}: {next}");
    }
    let later = configured(&settled(wanted, &[("net0", copied)]));
    assert!(
        later.contains("mtu=9000") && later.contains("tag=7"),
        "omitted means unmanaged: {later}"
    );
}

#[test]
fn a_clone_gets_no_device_of_its_template_and_a_guest_keeps_what_nobody_named() {
    let devices = |scene: Scene| scene.stage(|p| p.gpus(scene.lxc(), &scene.guest)).0;
    let (serial, gpu) = (("dev0", "/dev/ttyUSB0,mode=0666"), ("dev1", "/dev/nvidia0,mode=0666"));
    let cleared = devices(fresh("", &[serial]));
    assert!(cleared.contains("delete=dev0"), "{cleared}");
    assert!(devices(fresh("gpus: []", &[serial, gpu])).contains("delete=dev0,dev1"));
    assert_eq!(devices(settled("", &[serial, gpu])), "as wanted");
    let dropped = devices(settled("gpus: []", &[serial, gpu]));
    assert!(
        dropped.contains("delete=dev1") && !dropped.contains("dev0"),
        "{dropped}"
    );
    let modeset = ("dev2", "/dev/nvidia-modeset,gid=44");
    let dropped = devices(settled("gpus: []", &[serial, gpu, modeset]));
    assert!(
        dropped.contains("delete=dev1") && !dropped.contains("dev2"),
        "{dropped}"
    );
}

#[test]
fn a_raw_line_of_somebody_elses_stays() {
    let line = || vec![("lxc.cap.drop".to_string(), "sys_rawio".to_string())];
    let mut scene = settled("", &[]);
    scene.guest.raw_lines = line();
    assert_eq!(configured(&scene), "as wanted");
    scene.status().lxc_options = Some(vec!["lxc.cap.drop = sys_rawio".into()]);
    assert_eq!(
        configured(&scene),
        "RawLines",
        "Phoenix wrote it, and the spec dropped it"
    );
}

#[test]
fn nothing_is_written_while_proxmox_works_on_the_guest() {
    type Case = (&'static str, &'static str, Options, fn(&Scene) -> String);
    let cases: [Case; 5] = [
        ("options", "cores: 4", &[], configured),
        (
            "the root filesystem",
            "rootfs: {size: 9Gi}",
            &[("rootfs", "tank:subvol-100-disk-0,size=8G")],
            configured,
        ),
        ("raw lines", "lxcOptions: ['lxc.cap.drop = sys_rawio']", &[], configured),
        ("devices", "gpus: []", &[("dev0", "/dev/nvidia0")], |s| {
            s.stage(|p| p.gpus(s.lxc(), &s.guest)).0
        }),
        (
            "a volume",
            "volumes: [{name: d, size: 1Gi, mountPath: /d, reclaimPolicy: Delete}]",
            &[],
            |s| s.stage(|p| p.volumes(&s.guest)).0,
        ),
    ];
    for (what, spec, options, work) in cases {
        let mut scene = settled(spec, options);
        assert_ne!(work(&scene), "as wanted", "{what}");
        scene.guest.lock = Some("backup".into());
        assert_eq!(work(&scene), "wait GuestLocked", "{what}");
    }
}

#[test]
fn what_failed_is_tried_again_when_its_time_has_come() {
    let next = |at: i64| {
        let mut scene = settled("cores: 4", &[]);
        scene.status().next_retry = Some(Time(k8s_openapi::jiff::Timestamp::from_second(at).unwrap()));
        scene.next()
    };
    assert_eq!(next(1_000_010), "wait BackOff");
    assert!(
        next(1_000_000).starts_with("PUT /nodes/pve1/lxc/100/config"),
        "{}",
        next(1_000_000)
    );
}

#[test]
fn drift_is_only_reported_where_the_hypervisor_says_so() {
    let found = |policy: DriftPolicy| {
        let mut scene = settled("cores: 4", &[("cores", "2")]);
        scene.desired.life.drift = policy;
        let hash = scene.desired.prints.applied.clone();
        scene.status().applied_hash = Some(hash);
        let (next, (findings, _)) = scene.stage(|p| p.configured(scene.lxc(), &scene.guest));
        let seen = findings.iter().any(|f| f.condition == "DriftDetected");
        assert!(seen, "{policy:?}: {findings:?}");
        next
    };
    assert_eq!(found(DriftPolicy::Report), "as wanted");
    let corrected = found(DriftPolicy::Correct);
    assert!(
        corrected.contains("cores=4") && corrected.ends_with(" digest=of-the-read"),
        "{corrected}"
    );
}

#[test]
fn an_option_that_says_what_proxmox_takes_anyway_is_no_change() {
    let next = |spec: &str| {
        let scene = Scene::container(spec).with(&[("tags", "phoenix")]);
        scene.stage(|p| p.configured(scene.lxc(), &scene.guest)).0
    };
    assert_eq!(next("cmode: tty, tty: 2, console: true"), "as wanted");
    assert_eq!(
        next("cmode: shell, tty: 0, console: false"),
        "PUT /nodes/pve1/lxc/100/config cmode=shell console=0 tty=0 digest=of-the-read"
    );
}
