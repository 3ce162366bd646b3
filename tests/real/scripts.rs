//! What scripts are given: parameters byte for byte, secrets that nobody sees, and what a broken one says.

use serde_json::json;

use crate::world::{DEBIAN_12, DEBIAN_13, Real, container};

const NASTY: &str = "it's \"quoted\" $(touch /root/pwned) `touch /root/pwned` ${HOME} \\ back\\nslash\n\nsecond\tline\r\n \
                     'single' %s ; & | * ~ # é 日本 \u{7f} end ";

#[tokio::test(flavor = "multi_thread")]
async fn parameters_arrive_byte_for_byte_and_secrets_are_not_seen() {
    let Some(mut real) = Real::start().await else { return };
    let install = "#!/bin/sh\nset -eu\nprintf %s \"$PHOENIX_NASTY_VALUE\" >/root/nasty\n";
    let fields = json!({"install": install, "aliases": ["nasty_one"], "parameters": [{"name": "nasty-value"}]});
    real.world.feature("nasty-one", fields);
    let secret = "s3cret-9f1c'$(x)\n\"end";
    let value = json!({"metadata": {"name": "s", "namespace": "ai"}, "stringData": {"key": secret}});
    real.world
        .store
        .objects
        .insert_secret(serde_json::from_value(value).unwrap());
    let script = "#!/bin/sh\nprintf %s \"$TOKEN\" >/root/token\nwhile [ ! -e /root/go ]; do sleep 0.2; done\n";
    let keys: Vec<_> = [("a", DEBIAN_12), ("b", DEBIAN_13)]
        .iter()
        .map(|(name, image)| {
            real.world.store.apply(container(
                name,
                image,
                json!({
                    "features": [{"name": "nasty_one", "parameters": {"nasty-value": NASTY}}],
                    "application": {"script": script, "environment": [
                        {"name": "TOKEN", "secretKeyRef": {"name": "s", "key": "key"}},
                    ]},
                }),
            ))
        })
        .collect();
    for key in &keys {
        let at = key.clone();
        real.until("the script has its secret", move |real| {
            real.object(&at)
                .status
                .vmid
                .is_some_and(|id| real.node.exec(id, &["test", "-e", "/root/token"]).status.success())
        })
        .await;
        let vmid = real.vmid(key);
        assert_eq!(real.node.exec(vmid, &["cat", "/root/nasty"]).stdout, NASTY.as_bytes());
        assert_eq!(real.node.exec(vmid, &["cat", "/root/token"]).stdout, secret.as_bytes());
        assert!(!real.node.exec(vmid, &["test", "-e", "/root/pwned"]).status.success());
        // Neither in a process list, here or there, nor in a file that others may read.
        assert!(!seen_in_processes("s3cret-9f1c"));
        let left = real.sh(
            key,
            "grep -rl s3cret-9f1c /run /var/lib/phoenix /etc /tmp 2>/dev/null || true",
        );
        assert_eq!(left, "", "left behind");
        real.sh(key, "touch /root/go");
    }
    real.ready(&keys).await;
    for key in &keys {
        let status = serde_json::to_string(&real.object(key).status).unwrap();
        assert!(!status.contains("s3cret"), "{status}");
    }
}

/// Whether a process of this machine, containers too, has the words in its arguments.
fn seen_in_processes(words: &str) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_features_say_what_is_wrong() {
    let Some(mut real) = Real::start().await else { return };
    real.ship_features();
    let broken = |name: &str, body: &str| {
        real.world
            .feature(name, json!({"install": format!("#!/bin/sh\nset -eu\n{body}\n")}))
    };
    broken(
        "exits",
        "echo first; echo 'exits: the mirror is gone: set mirror' >&2; exit 3",
    );
    broken("killed", "echo 'about to go'; kill -9 $$");
    broken("no-program", "no-such-program --version");
    real.world.feature(
        "late",
        json!({"install": "#!/bin/sh\necho waiting for godot\nsleep 600\n", "deadlineSeconds": 1}),
    );
    real.world.feature(
        "not-really",
        json!({"install": "#!/bin/sh\ntrue\n", "check": "#!/bin/sh\nexit 5\n"}),
    );
    real.world
        .feature("no-interpreter", json!({"install": "#!/opt/none/python9\nprint(1)\n"}));
    let cases = [
        ("exits", vec!["exit code 3", "the mirror is gone"]),
        (
            "killed",
            vec!["about to go", "exit code 137, which stands for signal 9"],
        ),
        ("no-program", vec!["exit code 127", "no-such-program"]),
        ("late", vec!["its deadline of 1 s passed", "godot"]),
        ("not-really", vec!["exit code 5", "the check script still fails"]),
        ("no-interpreter", vec!["exit code 127", "python9"]),
        // Shipped ones, with something wrong that their own words name.
        ("base-setup", vec!["base-setup:", "proxy"]),
    ];
    for (name, _) in &cases {
        let mut feature = json!({"name": name});
        if *name == "base-setup" {
            feature["parameters"] = json!({"http-proxy": "http://user:password@proxy.lan:3128"});
        }
        real.world.store.apply(container(
            &format!("c-{name}"),
            DEBIAN_13,
            json!({"features": [feature]}),
        ));
    }
    for (name, words) in cases {
        let key = crate::world::lxc_key(&format!("c-{name}"));
        let message = real.reason(&key, "ScriptFailed").await;
        let all = format!("{message}\n{}", real.standing(&key));
        for word in words {
            assert!(all.contains(word), "{name}: {word:?} is missing in {all}");
        }
    }
    // Mended, the same objects become Ready.
    real.world.feature("exits", json!({"install": "#!/bin/sh\ntrue\n"}));
    real.ready(&[crate::world::lxc_key("c-exits")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_as_another_user() {
    let Some(mut real) = Real::start().await else { return };
    let script = "#!/bin/sh\nset -eu\nid -un; id -Gn; pwd; echo \"$HOME $USER $GREETING\"\n\
                  cat /var/lib/phoenix-application/words\necho mine >file\n\
                  ! touch /var/lib/phoenix-application/x\n! cat /var/lib/phoenix/application/*\nexit 5\n";
    let application = json!({"script": script, "user": "shop", "workingDirectory": "/srv/shop",
        "files": [{"path": "words", "content": "for the shop\n"}], "environment": [{"name": "GREETING", "value": "it's"}]});
    let key = real
        .world
        .store
        .apply(container("a", DEBIAN_12, json!({"application": application})));
    let message = real.reason(&key, "ScriptFailed").await;
    assert!(message.contains("no user shop"), "{message}");
    real.sh(
        &key,
        "useradd -m shop && groupadd guild && usermod -aG guild shop && install -d -o shop /srv/shop",
    );
    let at = key.clone();
    let ran = "test -e /srv/shop/file && cat /var/lib/phoenix/application/output.*";
    real.until("it has run", move |real| {
        let said = real.node.exec(real.vmid(&at), &["/bin/sh", "-c", ran]);
        String::from_utf8_lossy(&said.stdout).contains("for the shop")
    })
    .await;
    let said = real.sh(&key, ran);
    let begin = "shop\nshop guild\n/srv/shop\n/home/shop shop it's\nfor the shop\n";
    assert!(
        said.starts_with(begin) && said.matches("Permission denied").count() == 2,
        "{said}"
    );
    assert_eq!(
        real.sh(
            &key,
            "stat -c %U /srv/shop/file; stat -c '%a %U %G' /var/lib/phoenix-application"
        ),
        "shop\n750 root shop\n"
    );
    assert!(real.reason(&key, "ScriptFailed").await.contains("exit code 5"));
}
