//! What is wrong with the content of a hypervisor's Secrets is told with Secret and key.

use crate::engine::{World, hypervisor};
use phoenix::desired::Objects;
use serde_json::{Value, json};

fn secret(world: &World, name: &str, data: Value) {
    let secret = json!({"metadata": {"name": name, "namespace": "ai"}, "stringData": data});
    world
        .store
        .objects
        .insert_secret(serde_json::from_value(secret).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_content_of_a_hypervisors_secret_names_the_secret_and_its_key() {
    let pem = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n";
    for (name, data, reason, told) in [
        (
            "ca",
            json!({"ca.crt": pem}),
            "InvalidSpec",
            "key \"ca.crt\" of Secret ai/ca: the CA",
        ),
        (
            "ssh",
            json!({"key": "ssh-ed25519 AAAA me@desk", "known_hosts": "pve ssh-ed25519 AAAA"}),
            "SSHKeyInvalid",
            "spec.ssh.keySecretRef of the PhoenixHypervisor: key \"key\" of Secret ai/ssh: ",
        ),
        (
            "token",
            json!({"tokenId": "phoenix@pve!operator", "secret": "00000000-0000-4000-8000-000000000000"}),
            "Unauthorized",
            "correct the token or the password in Secret ai/token",
        ),
    ] {
        let mut world = World::networked(&[]).await;
        secret(&world, name, data);
        world.restart();
        hypervisor(&world, |_| {});
        world.poll().await;
        let status = world.store.hypervisor("ai", "pve").unwrap().status.clone().unwrap();
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_str()),
            ("False", reason),
            "{ready:?}"
        );
        assert!(ready.message.contains(told), "{ready:?}");
    }
}
