//! What an object of another namespace may not have.

use super::*;

/// A container in namespace `tenant` on the hypervisor of namespace `ai`.
fn tenant(fields: Value) -> Value {
    let mut object = guest("theirs", fields);
    object["metadata"]["namespace"] = json!("tenant");
    object["spec"]["hypervisorRef"] = json!({"name": "pve", "namespace": "ai"});
    object
}

fn let_in(world: &World, from: Value) {
    hypervisor(world, |h| {
        h.spec.allowed_namespaces = Some(serde_json::from_value(from).unwrap());
    });
    let labels = BTreeMap::from([("team".to_string(), "vision".to_string())]);
    world.store.objects.insert_namespace("tenant", labels);
}

/// The object is refused, with the field and what the hypervisor's owner can do, and nothing was written.
async fn refused(world: &World, object: Value, names: &[&str]) {
    world.sim().clear_requests();
    let key = world.store.apply(object);
    for _ in 0..3 {
        world.round().await;
    }
    let told = said(world, &key, "NotAllowed").unwrap_or_default();
    assert!(
        names.iter().all(|n| told.contains(n)),
        "{names:?}: {told:?}: {:?}",
        status(world, &key)
    );
    assert_eq!(writes(world), Vec::<String>::new());
    world.store.delete(&key);
    rounds(world).await;
}

#[tokio::test(start_paused = true)]
async fn a_hypervisor_is_used_by_the_namespaces_that_it_lets_in() {
    let mut world = World::new(&[]).await;
    refused(
        &world,
        tenant(json!({})),
        &["spec.hypervisorRef", "ai/pve", "tenant", "spec.allowedNamespaces"],
    )
    .await;
    for from in [
        json!({"from": "Same"}),
        json!({"from": "Selector"}),
        json!({"from": "Selector", "selector": {"matchLabels": {"team": "audio"}}}),
    ] {
        let_in(&world, from);
        refused(&world, tenant(json!({})), &["spec.allowedNamespaces"]).await;
    }
    let_in(
        &world,
        json!({"from": "Selector", "selector": {"matchLabels": {"team": "vision"}}}),
    );
    let key = world.store.apply(tenant(json!({})));
    rounds(&world).await;
    world.store.delete(&key);
    world.settle(false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_root_on_the_node_is_for_other_namespaces_only_where_it_is_allowed() {
    let world = World::with_ssh(&[]).await;
    let_in(&world, json!({"from": "All"}));
    let mount = json!([{"name": "srv", "hostPath": "/srv/other-teams", "mountPath": "/srv"}]);
    for (fields, field, allow) in [
        (json!({"unprivileged": false}), "spec.unprivileged", "allow.privileged"),
        (
            json!({"lxcOptions": ["lxc.cap.drop = "]}),
            "spec.lxcOptions",
            "allow.lxcOptions",
        ),
        (json!({"hostMounts": mount}), "spec.hostMounts", "allow.hostPaths"),
    ] {
        refused(&world, tenant(fields), &[field, allow]).await;
    }
    assert!(world.guests().is_empty(), "{:#?}", world.guests());
}
