//! The application script, its files and environment, both contracts, and the tests.

use crate::desired::ScriptRole;

use super::*;

fn application(fields: &str) -> Script {
    let scripts = lxc_scripts(&with_lxc(&format!("  application: {{{fields}}}"))).unwrap();
    find(scripts, "application")
}

#[test]
fn scripts_lie_in_their_folder_and_keep_their_interpreter() {
    for (fields, path, body) in [
        ("script: echo hi", "/var/lib/phoenix/application/script", "/bin/sh"),
        (
            "script: \"#!/bin/bash -e\\ntrue\"",
            "/var/lib/phoenix/application/script",
            "/bin/bash -e",
        ),
        (
            "scriptFrom: {name: scripts, key: run.sh}",
            "/var/lib/phoenix/application/run.sh",
            "/bin/bash",
        ),
        (
            "scriptFrom: {name: scripts, key: plain.py}",
            "/var/lib/phoenix/application/plain.py",
            "/usr/bin/env python3",
        ),
        (
            "scriptFrom: {name: scripts, key: shebang.py}",
            "/var/lib/phoenix/application/shebang.py",
            "/usr/bin/python3.11 -I",
        ),
    ] {
        let script = application(fields);
        assert_eq!(
            script.body,
            format!("#!/bin/sh\nexec {body} {path} \"$@\"\n"),
            "{fields}"
        );
        assert_eq!(file(&script, path).mode, "0700");
        assert_eq!(script.workdir.as_deref(), Some("/var/lib/phoenix/application"));
        assert_eq!((script.role, script.args.len()), (ScriptRole::Application, 0));
        assert_eq!((script.deadline_seconds, script.rerun), (3600, RerunPolicy::OnChange));
    }
}

#[test]
fn files_environment_and_policies_are_taken_over() {
    let script = application(
        "script: 'true', rerunPolicy: Never, deadlineSeconds: 60, files: [{path: conf/a.json, contentFrom: {name: \
         scripts, key: data.json}}, {path: /etc/x, content: text, mode: '0600'}], environment: [{name: A, value: b}, \
         {name: P, secretKeyRef: {name: keys, key: password}}]",
    );
    let a = file(&script, "/var/lib/phoenix/application/conf/a.json");
    assert_eq!((a.content.as_str(), a.mode.as_str()), ("{}", "0644"));
    let x = file(&script, "/etc/x");
    assert_eq!((x.content.as_str(), x.mode.as_str()), ("text", "0600"));
    let environment = [("A", "b"), ("P", "pa$$word")].map(|(k, v)| (k.to_string(), v.to_string()));
    assert_eq!(script.environment, environment.into());
    assert_eq!((script.deadline_seconds, script.rerun), (60, RerunPolicy::Never));
    assert!(!format!("{script:?}").contains("pa$$word"));
}

#[test]
fn every_part_that_is_given_is_in_the_hash() {
    let fields = [
        "script: a",
        "script: b",
        "script: a, contract: Legacy",
        "script: a, files: [{path: x, content: '1'}]",
        "script: a, files: [{path: x, content: '2'}]",
        "script: a, files: [{path: z, content: '2'}]",
        "script: a, files: [{path: z, content: '2', mode: '0600'}]",
        "script: a, environment: [{name: A, value: b}]",
        "script: a, environment: [{name: A, secretKeyRef: {name: keys, key: password}}]",
    ];
    let mut hashes: Vec<String> = fields.iter().map(|f| application(f).hash).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), fields.len());
    let plain = application("script: a").hash;
    assert_eq!(
        application("script: a, rerunPolicy: Never, deadlineSeconds: 9").hash,
        plain
    );
}

#[test]
fn the_legacy_contract_gives_the_id_and_keeps_it_out_of_the_hash() {
    let spec = "  vmid: 950\n  application: {contract: Legacy, scriptFrom: {name: scripts, key: run.sh}, files: [{path: \
                data.json, contentFrom: {name: scripts, key: data.json}}]}";
    let objects = with_lxc(spec);
    let script = find(lxc_scripts(&objects).unwrap(), "application");
    assert_eq!(script.args, ["950"]);
    assert_eq!(script.workdir.as_deref(), Some("/tmp/phoenix_run"));
    assert!(
        script.body.starts_with("#!/bin/sh\ncommand -v jq > /dev/null"),
        "{}",
        script.body
    );
    assert!(
        script
            .body
            .ends_with("\nexec /bin/bash /tmp/phoenix_run/run.sh \"$@\"\n")
    );
    for name in ["phoenix_hypervisor_common_utils.sh", "common_utils.sh"] {
        let utils = file(&script, &format!("/tmp/phoenix_run/{name}"));
        assert!(utils.mode == "0644" && utils.content.contains("jq_get_value()"));
    }
    assert_eq!(file(&script, "/tmp/phoenix_run/run.sh").mode, "0755");
    assert_eq!(file(&script, "/tmp/phoenix_run/data.json").content, "{}");
    // What was allocated counts more than nothing, and neither is in the hash.
    let objects = with_lxc(&spec.replace("  vmid: 950\n", ""));
    let none = find(lxc_scripts(&objects).unwrap(), "application");
    assert!(none.args.is_empty());
    objects.update_guest(&testing::lxc(&objects, "x").key, |g| g.status.vmid = Some(1001));
    let allocated = find(lxc_scripts(&objects).unwrap(), "application");
    assert_eq!(allocated.args, ["1001"]);
    assert_eq!((&none.hash, &allocated.hash), (&script.hash, &script.hash));
}

#[test]
fn what_is_wrong_is_named_with_its_fix() {
    for (spec, reason, words) in [
        (
            "application: {scriptFrom: {name: none, key: a}}",
            Reason::ConfigMapNotFound,
            "spec.application.scriptFrom: there is no ConfigMap ai/none: create it",
        ),
        (
            "application: {scriptFrom: {name: scripts, key: a}}",
            Reason::ConfigMapNotFound,
            "spec.application.scriptFrom: ConfigMap ai/scripts has no key \"a\"",
        ),
        (
            "application: {}",
            Reason::InvalidSpec,
            "spec.application: neither script nor scriptFrom",
        ),
        (
            "application: {script: a, files: [{path: b}]}",
            Reason::InvalidSpec,
            "spec.application.files[0]: neither content nor contentFrom",
        ),
        (
            "application: {script: a, files: [{path: b, contentFrom: {name: none, key: a}}]}",
            Reason::ConfigMapNotFound,
            "spec.application.files[0].contentFrom: there is no ConfigMap ai/none",
        ),
        (
            "application: {script: a, files: [{path: ../b, content: c}]}",
            Reason::InvalidSpec,
            "spec.application.files[0].path: \"../b\" is not the path of a file",
        ),
        (
            "application: {script: a, files: [{path: /etc/, content: c}]}",
            Reason::InvalidSpec,
            "\"/etc/\" is not the path of a file",
        ),
        (
            "application: {script: a, files: [{path: b, content: c}, {path: ./b, content: c}]}",
            Reason::InvalidSpec,
            "spec.application.files[1].path: \"./b\" is the path of another file too",
        ),
        (
            "application: {script: a, files: [{path: script, content: c}]}",
            Reason::InvalidSpec,
            "\"/var/lib/phoenix/application/script\" is where the script itself goes",
        ),
        (
            "application: {script: a, environment: [{name: P, secretKeyRef: {name: none, key: k}}]}",
            Reason::SecretNotFound,
            "spec.application.environment[P].secretKeyRef: there is no Secret ai/none",
        ),
        (
            "application: {script: a, environment: [{name: P}]}",
            Reason::InvalidSpec,
            "spec.application.environment[P]: neither value nor secretKeyRef",
        ),
        (
            "application: {script: a, environment: [{name: P, value: \"\\0\"}]}",
            Reason::InvalidSpec,
            "spec.application.environment[P]: the value holds a NUL character",
        ),
        (
            "tests: [{name: t}]",
            Reason::InvalidSpec,
            "spec.tests[t]: neither script nor scriptFrom",
        ),
        (
            "tests: [{name: t, scriptFrom: {name: none, key: k}}]",
            Reason::ConfigMapNotFound,
            "spec.tests[t].scriptFrom: there is no ConfigMap ai/none",
        ),
    ] {
        let (found, message) = blocked(&format!("  {spec}"));
        assert_eq!(found, reason, "{spec}: {message}");
        assert!(message.contains(words), "{spec}: {message}");
    }
}

#[test]
fn tests_come_last_and_are_given_the_id() {
    let spec = "  vmid: 955\n  features: [{name: docker}]\n  application: {script: a}\n  tests: [{name: b, scriptFrom: \
                {name: scripts, key: plain.py}, deadlineSeconds: 5}, {name: a, kind: Integration, script: 'true'}]";
    let scripts = lxc_scripts(&with_lxc(spec)).unwrap();
    let want = [
        "feature-base-setup",
        "feature-docker",
        "application",
        "test-b",
        "test-a",
    ];
    assert_eq!(ids(&scripts), want);
    let b = &scripts[3];
    assert_eq!(
        (b.role, b.name.as_str(), b.deadline_seconds),
        (ScriptRole::Test, "b", 5)
    );
    assert_eq!(
        b.body,
        "#!/bin/sh\nexec /usr/bin/env python3 /run/phoenix/test-b/plain.py \"$@\"\n"
    );
    assert_eq!(b.args, ["955"]);
    let a = &scripts[4];
    assert_eq!((a.deadline_seconds, a.files.len()), (300, 1));
    assert_eq!(a.files[0].path, "/run/phoenix/test-a/script");
    let other = lxc_scripts(&with_lxc(&spec.replace("955", "956"))).unwrap();
    assert_eq!(other[3].hash, b.hash);
    // Another guest's test is another test: a clone must not show its template's result as its own.
    let objects = with_lxc(spec);
    let mut clone = testing::lxc(&objects, "x");
    clone.key.name = "y".into();
    let other = run(&objects, &clone).unwrap();
    assert_ne!(other[3].hash, b.hash);
    assert_eq!(other[1].hash, scripts[1].hash);
    assert_eq!(other[2].hash, scripts[2].hash);
    let changed = lxc_scripts(&with_lxc(&spec.replace("script: 'true'", "script: 'false'"))).unwrap();
    assert_eq!((changed[3].hash == b.hash, changed[4].hash == a.hash), (true, false));
}

/// A helper library that the object brings is its own business.
#[test]
fn an_own_helper_library_replaces_phoenixs() {
    let objects = with_lxc(
        "  application: {contract: Legacy, script: a, files: [{path: common_utils.sh, content: 'own() { :; }'}]}",
    );
    let script = find(lxc_scripts(&objects).unwrap(), "application");
    assert_eq!(
        file(&script, "/tmp/phoenix_run/common_utils.sh").content,
        "own() { :; }"
    );
    let count = script
        .files
        .iter()
        .filter(|f| f.path.ends_with("/common_utils.sh"))
        .count();
    assert_eq!(count, 1);
    assert!(
        file(&script, "/tmp/phoenix_run/phoenix_hypervisor_common_utils.sh")
            .content
            .contains("log_fatal()")
    );
}

#[test]
fn legacy_tests_lie_beside_the_files_and_each_other() {
    let spec = "  vmid: 950\n  application: {contract: Legacy, script: a, files: [{path: data.json, content: '{}'}]}\n  \
                tests: [{name: one, scriptFrom: {name: scripts, key: run.sh}}, {name: two, scriptFrom: {name: scripts, \
                key: plain.py}}, {name: three, script: 'true'}]";
    let scripts = lxc_scripts(&with_lxc(spec)).unwrap();
    for (id, own) in [
        ("test-one", "run.sh"),
        ("test-two", "plain.py"),
        ("test-three", "test-three"),
    ] {
        let script = find(scripts.clone(), id);
        let mut paths: Vec<&str> = script.files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths.last(), Some(&format!("/tmp/phoenix_run/{own}").as_str()));
        for path in [
            "/tmp/phoenix_run/data.json",
            "/tmp/phoenix_run/run.sh",
            "/tmp/phoenix_run/plain.py",
        ] {
            assert!(paths.contains(&path), "{id}: {paths:?}");
        }
        let count = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), count);
        assert_eq!(
            (script.args, script.workdir.as_deref()),
            (vec!["950".to_string()], Some("/tmp/phoenix_run"))
        );
    }
}

#[test]
fn another_user_gets_a_folder_that_it_may_read() {
    let script = application("script: a, user: shop, files: [{path: x, content: b}]");
    let run_as = script.run_as.clone().unwrap();
    let folder = "/var/lib/phoenix-application";
    assert_eq!((run_as.user.as_str(), run_as.folder.as_str()), ("shop", folder));
    assert_eq!(script.workdir.as_deref(), Some(folder));
    assert_eq!(file(&script, &format!("{folder}/script")).mode, "0755");
    assert_eq!(file(&script, &format!("{folder}/x")).mode, "0644");
    assert_ne!(
        script.hash,
        application("script: a, user: other, files: [{path: x, content: b}]").hash
    );
    // Naming root changes nothing, so no script is run again for it.
    let root = application("script: a, user: root");
    assert_eq!(
        (root.run_as.is_none(), root.hash),
        (true, application("script: a").hash)
    );
    let elsewhere = application("script: a, workingDirectory: /srv");
    assert_eq!(elsewhere.workdir.as_deref(), Some("/srv"));
    file(&elsewhere, "/var/lib/phoenix/application/script");
    assert_ne!(elsewhere.hash, application("script: a").hash);
}
