//! Features: lookup, order, parameters, inheritance.

use crate::reason::Cause;

use super::*;

#[test]
fn order_follows_requirements_and_the_spec_otherwise() {
    for (features, want) in [
        ("[]", &[][..]),
        ("[{name: docker}]", &["base-setup", "docker"]),
        ("[{name: docker}, {name: base_setup}]", &["base-setup", "docker"]),
        ("[{name: vllm}]", &["base-setup", "nvidia", "vllm"]),
        (
            "[{name: docker}, {name: vllm}]",
            &["base-setup", "docker", "nvidia", "vllm"],
        ),
        (
            "[{name: vllm}, {name: docker}]",
            &["base-setup", "nvidia", "vllm", "docker"],
        ),
    ] {
        let scripts = lxc_scripts(&with_lxc(&format!("  features: {features}"))).unwrap();
        let names: Vec<&str> = scripts.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, want, "{features}");
        for script in &scripts {
            assert_eq!(script.id, format!("feature-{}", script.name));
            assert_eq!(script.role, ScriptRole::Feature);
            assert_eq!(script.environment["PHOENIX_FEATURES"], want.join(" "));
            assert!(script.args.is_empty() && script.workdir.is_none());
            assert_eq!(script.rerun, RerunPolicy::OnChange);
        }
    }
}

#[test]
fn the_objects_own_namespace_comes_first() {
    let objects = with_lxc("  features: [{name: docker}, {name: compose}]");
    let own = "kind: PhoenixFeature
metadata: {name: docker}
spec:
  install: echo own
---
kind: PhoenixFeature
metadata: {name: composer}
spec:
  aliases: [compose]
  requires: [docker]
  install: \"true\"
";
    testing::apply(&objects, own);
    let scripts = lxc_scripts(&objects).unwrap();
    assert_eq!(ids(&scripts), ["feature-docker", "feature-composer"]);
    assert_eq!(
        file(&scripts[0], "/run/phoenix/feature-docker/install").content,
        "echo own"
    );
    // A feature of some third namespace is none of theirs.
    let objects = with_lxc("  features: [{name: alien}]");
    let alien = "kind: PhoenixFeature\nmetadata: {name: alien, namespace: other}\nspec: {install: 'true'}";
    testing::apply(&objects, alien);
    assert!(lxc_scripts(&objects).is_err());
}

#[test]
fn check_and_install_are_files_and_the_body_runs_them() {
    let scripts = lxc_scripts(&with_lxc("  features: [{name: vllm}]")).unwrap();
    let base = &scripts[0];
    let paths: Vec<(&str, &str)> = base.files.iter().map(|f| (f.path.as_str(), f.mode.as_str())).collect();
    assert_eq!(
        paths,
        [
            ("/run/phoenix/feature-base-setup/check", "0700"),
            ("/run/phoenix/feature-base-setup/install", "0700"),
        ]
    );
    assert!(base.body.starts_with("#!/bin/sh\n"));
    assert_eq!(
        base.body
            .matches("/bin/sh /run/phoenix/feature-base-setup/check")
            .count(),
        2
    );
    assert_eq!(
        base.body
            .matches("/bin/sh /run/phoenix/feature-base-setup/install")
            .count(),
        1
    );
    assert!(!base.body.contains("/base\n"), "the user's text stays out of the body");
    assert_eq!((base.deadline_seconds, scripts[2].deadline_seconds), (1800, 5400));
    let nvidia = &scripts[1];
    assert!(nvidia.body.contains("/bin/bash /run/phoenix/feature-nvidia/install"));
    assert!(!nvidia.body.contains("feature-nvidia/check"));
}

#[test]
fn what_is_wrong_is_named_with_its_fix() {
    for (features, reason, words) in [
        (
            "[{name: dokcer}]",
            Reason::FeatureNotFound,
            &[
                "spec.features[dokcer]: there is no PhoenixFeature \"dokcer\" in namespace ai or infra: create it or correct the name; there are bad-default, base-setup, clash, dangling, docker,",
            ][..],
        ),
        (
            "[{name: dangling}]",
            Reason::FeatureNotFound,
            &[
                "spec.features[dangling]: PhoenixFeature dangling requires nowhere: there is no PhoenixFeature \"nowhere\"",
            ],
        ),
        (
            "[{name: into-ring}]",
            Reason::FeatureCycle,
            &[
                "spec.features[into-ring]: the features ring-b → ring-c → ring-a → ring-b require each other: take one out",
            ],
        ),
        (
            "[{name: twin}]",
            Reason::InvalidSpec,
            &["\"twin\" is an alias of twin-1 and twin-2 in namespace infra"],
        ),
        (
            "[{name: kernel}]",
            Reason::InvalidSpec,
            &["spec.features[kernel]: the feature kernel is not for containers"],
        ),
        (
            "[{name: needs-kernel}]",
            Reason::InvalidSpec,
            &[
                "spec.features[needs-kernel]: PhoenixFeature needs-kernel requires kernel: the feature kernel is not for",
            ],
        ),
        (
            "[{name: base-setup}, {name: base_setup}]",
            Reason::InvalidSpec,
            &["spec.features[base_setup]: it is the feature base-setup, as is spec.features[base-setup]"],
        ),
        (
            "[{name: vllm, parameters: {colour: red}}]",
            Reason::InvalidSpec,
            &[
                "spec.features[vllm].parameters.colour: the feature vllm has no such parameter (given as \"red\"); use one of version",
            ],
        ),
        (
            "[{name: docker, parameters: {colour: red}}]",
            Reason::InvalidSpec,
            &["it has none: take it out"],
        ),
        (
            "[{name: portainer}]",
            Reason::InvalidSpec,
            &["spec.features[portainer].parameters.role is missing: the feature portainer needs it: give a value"],
        ),
        (
            "[{name: portainer, parameters: {role: server, port: https}}]",
            Reason::InvalidSpec,
            &[
                "spec.features[portainer].parameters.port: \"https\" is not what",
                "give a whole number",
            ],
        ),
        (
            "[{name: portainer, parameters: {role: server, agent: 'yes'}}]",
            Reason::InvalidSpec,
            &["parameters.agent: \"yes\" is not what", "give true or false"],
        ),
        (
            "[{name: portainer, parameters: {role: \"a\\0b\"}}]",
            Reason::InvalidSpec,
            &["parameters.role: the value holds a NUL character"],
        ),
        (
            "[{name: clash}]",
            Reason::InvalidSpec,
            &["are both given as PHOENIX_A_B: rename one"],
        ),
        (
            "[{name: bad-default}]",
            Reason::InvalidSpec,
            &["spec.features[bad-default]: default of parameter port: \"eighty\""],
        ),
    ] {
        let (found, message) = blocked(&format!("  features: {features}"));
        assert_eq!(found, reason, "{features}: {message}");
        for part in words {
            assert!(message.contains(part), "{features}: {message}");
        }
    }
    let objects = testing::objects(
        "kind: PhoenixHypervisor\nmetadata: {name: pve}\nspec: {endpoints: [], credentials: {}}\n---\nkind: \
         PhoenixLXC\nmetadata: {name: x}\nspec: {hypervisorRef: {name: pve}, features: [{name: a}]}",
    );
    let found = scripts(
        &testing::lxc(&objects, "x"),
        &objects.hypervisor("ai", "pve").unwrap(),
        &objects,
    );
    let Err(Blocked::Stalled(Cause { message, .. })) = found else {
        panic!("{found:?}")
    };
    assert!(
        message.ends_with("in namespace ai: create it, or apply the shipped ones; there is none yet"),
        "{message}"
    );
}

#[test]
fn a_parameter_that_a_requirement_needs_is_asked_for_where_it_can_be_given() {
    let objects = with_lxc("  features: [{name: stack}]");
    let stack = "kind: PhoenixFeature\nmetadata: {name: stack}\nspec: {requires: [portainer], install: 'true'}";
    testing::apply(&objects, stack);
    let Err(Blocked::Stalled(Cause { message, .. })) = lxc_scripts(&objects) else {
        panic!("not stalled")
    };
    assert!(
        message.contains("list portainer under features, with parameters.role"),
        "{message}"
    );
}

#[test]
fn parameters_become_environment_with_defaults() {
    let spec = "  features: [{name: portainer, parameters: {role: server, agent: 'true'}}]";
    let script = find(lxc_scripts(&with_lxc(spec)).unwrap(), "feature-portainer");
    let mut environment = script.environment;
    environment.remove("PHOENIX_FEATURES");
    let want = [
        ("PHOENIX_AGENT", "true"),
        ("PHOENIX_PORT", "9443"),
        ("PHOENIX_ROLE", "server"),
    ];
    assert_eq!(environment, want.map(|(k, v)| (k.to_string(), v.to_string())).into());
    let base = find(lxc_scripts(&with_lxc(spec)).unwrap(), "feature-base-setup");
    assert_eq!(base.environment["PHOENIX_NO_PROXY"], "localhost");
    assert!(
        !base.environment.contains_key("PHOENIX_HTTP_PROXY"),
        "unset stays unset"
    );
}

const LINEAGE: &str = "kind: PhoenixTemplate
metadata: {name: base}
spec:
  hypervisorRef: {name: pve, namespace: infra}
  lxc:
    features: [{name: base_setup, parameters: {http-proxy: 'http://old', no-proxy: a}}]
---
kind: PhoenixTemplate
metadata: {name: gpu}
spec:
  hypervisorRef: {name: pve, namespace: infra}
  lxc:
    source: {templateRef: {name: base}}
    features: [{name: base-setup, parameters: {http-proxy: 'http://new'}}, {name: nvidia}]
";

#[test]
fn a_clone_has_the_hashes_and_parameters_of_its_template() {
    let objects = with_lxc("  source: {templateRef: {name: gpu}}\n  features: [{name: vllm}]");
    testing::apply(&objects, LINEAGE);
    let clone = lxc_scripts(&objects).unwrap();
    let template = run(&objects, &testing::template(&objects, "gpu")).unwrap();
    assert_eq!(ids(&clone), ["feature-base-setup", "feature-nvidia", "feature-vllm"]);
    assert_eq!(ids(&template), ["feature-base-setup", "feature-nvidia"]);
    for (a, b) in clone.iter().zip(&template) {
        assert_eq!(a.hash, b.hash, "{}", a.id);
        assert_ne!(a.environment["PHOENIX_FEATURES"], b.environment["PHOENIX_FEATURES"]);
    }
    assert_eq!(clone[0].environment["PHOENIX_HTTP_PROXY"], "http://new");
    assert_eq!(clone[0].environment["PHOENIX_NO_PROXY"], "a");
    // The clone's own word counts, and is another script.
    let objects =
        with_lxc("  source: {templateRef: {name: gpu}}\n  features: [{name: base-setup, parameters: {no-proxy: b}}]");
    testing::apply(&objects, LINEAGE);
    let own = lxc_scripts(&objects).unwrap();
    assert_eq!(own[0].environment["PHOENIX_NO_PROXY"], "b");
    assert_eq!(own[0].environment["PHOENIX_HTTP_PROXY"], "http://new");
    assert_ne!(own[0].hash, clone[0].hash);
}

#[test]
fn a_changed_script_or_parameter_changes_the_hash_and_a_deadline_does_not() {
    let hash = |change: fn(&mut crate::crd::PhoenixFeatureSpec)| {
        let objects = with_lxc("  features: [{name: base-setup}]");
        let mut feature = objects
            .features("infra")
            .iter()
            .find(|f| f.spec.check.is_some())
            .unwrap()
            .as_ref()
            .clone();
        change(&mut feature.spec);
        objects.insert_feature(feature);
        lxc_scripts(&objects).unwrap()[0].hash.clone()
    };
    let plain = hash(|_| {});
    assert_ne!(plain, hash(|f| f.install.push(' ')));
    assert_ne!(plain, hash(|f| f.check = None));
    assert_ne!(
        plain,
        hash(|f| f.parameters.as_mut().unwrap()[1].default = Some("b".into()))
    );
    assert_eq!(plain, hash(|f| f.deadline_seconds = Some(7)));
    assert_eq!(plain, hash(|f| f.description = Some("x".into())));
}
