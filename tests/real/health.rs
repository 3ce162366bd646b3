//! Probes in real containers: a server that hangs is restarted, by its unit or with its guest, and what the probes say is
//! said of the object.

use phoenix::desired::Key;
use serde_json::{Value, json};

use crate::world::{DEBIAN_12, Real, container};

/// A web server of a few lines as a unit. It takes a moment to begin.
const INSTALL: &str = r#"#!/bin/sh
set -eu
cat >/usr/local/bin/web <<'END'
#!/usr/bin/perl
use IO::Socket::INET;
sleep 2;
my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 16, ReuseAddr => 1) or die $@;
while (my $client = $server->accept) {
    my $line = <$client>;
    print $client "HTTP/1.0 200 OK\r\n\r\nhello\n";
    close $client;
}
END
chmod 755 /usr/local/bin/web
cat >/etc/systemd/system/web.service <<'END'
[Service]
ExecStart=/usr/local/bin/web
TimeoutStopSec=2
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable --now web.service
"#;

fn guest(unit: Option<&str>) -> Value {
    let get = |path: &str, failures: i64| json!({"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": failures});
    let mut health =
        json!({"startup": get("/start", 120), "readiness": get("/ready", 2), "liveness": get("/alive", 4)});
    if let Some(unit) = unit {
        health["restartUnit"] = json!(unit);
    }
    container(
        "web",
        DEBIAN_12,
        json!({"application": {"script": INSTALL}, "health": health}),
    )
}

/// Process of the server, and of the container's first process on the node.
fn processes(real: &Real, key: &Key) -> (String, i64) {
    let server = real.sh(key, "systemctl show web.service -p MainPID --value");
    let boots = real.sh(key, "cat /root/boots 2>/dev/null | wc -l");
    (server.trim().to_string(), boots.trim().parse().unwrap())
}

fn restarts(real: &Real, key: &Key) -> i64 {
    real.object(key).status.restarts.map_or(0, |r| r.count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_restarted_by_its_unit_and_then_with_its_guest() {
    let Some(mut real) = Real::start().await else { return };
    let key = real.world.store.apply(guest(Some("web.service")));
    real.ready(std::slice::from_ref(&key)).await;
    // Counts the starts of the container.
    let count = "printf '[Service]\\nType=oneshot\\nExecStart=/bin/sh -c \"echo >>/root/boots\"\\n[Install]\\nWantedBy=multi-user.target\\n' \
                 >/etc/systemd/system/boots.service && systemctl enable --quiet boots.service";
    real.sh(&key, count);
    let (before, _) = processes(&real, &key);

    // It still accepts connections, and answers none.
    real.sh(&key, "systemctl kill -s STOP web.service");
    real.until("a restart of the unit", |real| restarts(real, &key) > 0)
        .await;
    real.ready(std::slice::from_ref(&key)).await;
    let (after, boots) = processes(&real, &key);
    assert_ne!(before, after);
    assert_eq!(boots, 0, "the container went on running");

    let key = real.world.store.apply(guest(None));
    real.ready(std::slice::from_ref(&key)).await;
    real.sh(&key, "systemctl kill -s STOP web.service");
    let so_far = restarts(&real, &key);
    real.until("a restart of the container", |real| restarts(real, &key) > so_far)
        .await;
    real.ready(std::slice::from_ref(&key)).await;
    assert!(processes(&real, &key).1 >= 1, "the container was started anew");
    let events = real.world.store.events.lock().unwrap();
    let told = |reason: &str, words: &str| {
        events
            .iter()
            .any(|(_, e)| e.reason == reason && e.message.contains(words))
    };
    for (what, words) in [
        (
            "Restarted",
            "restarted web.service in container 1000 (the liveness probe fails: ",
        ),
        ("Restarted", "restarted container 1000 (the liveness probe fails: "),
        ("Restarted", "no answer"),
        ("Healthy", "the readiness probe succeeds"),
    ] {
        assert!(told(what, words), "{what} {words:?} is not in {events:?}");
    }
}
