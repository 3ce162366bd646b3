use super::*;
use crate::crd::GuestKind;
use crate::desired::{Key, Objects, testing};
use crate::status;

const QWEN: &str = "
kind: PhoenixLXC
metadata: {name: qwen, uid: u-1}
spec:
  hypervisorRef: {name: pve}
  vllm: {model: m}
";

fn object(manifest: &str, name: &str) -> GuestObject {
    let objects = testing::objects(manifest);
    objects.guest(&Key::new(GuestKind::PhoenixLXC, "ai", name)).unwrap()
}

/// An object with an address and these conditions.
fn with(manifest: &str, ip: &str, conditions: &[(&str, &str, Reason)]) -> GuestObject {
    let mut object = object(manifest, "qwen");
    object.status.ip = Some(ip.into());
    for (type_, value, reason) in conditions {
        status::set_condition(&mut object.status.conditions, type_, value, *reason, "", 1, 1);
    }
    object
}

fn healthy(manifest: &str) -> GuestObject {
    with(manifest, "10.0.0.5", &[("Healthy", "True", Reason::Healthy)])
}

fn conditions(slice: &EndpointSlice) -> (Option<bool>, Option<bool>, Option<bool>) {
    let conditions = slice.endpoints[0].conditions.clone().unwrap();
    (conditions.ready, conditions.serving, conditions.terminating)
}

fn made(object: &GuestObject) -> BTreeMap<String, EndpointSlice> {
    slices(object, &exposed(object), |_| false)
}

#[test]
fn a_model_server_has_a_service_of_the_objects_name() {
    let object = healthy(QWEN);
    let exposed = exposed(&object);
    assert!(!exposed.asked);
    let service = service(&object, &exposed);
    let json = serde_json::to_value(&service).unwrap();
    assert_eq!(json["metadata"]["name"], "qwen");
    assert_eq!(json["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(json["metadata"]["ownerReferences"][0]["controller"], true);
    assert!(json["spec"]["selector"].is_null());
    assert_eq!(
        json["spec"]["ports"],
        serde_json::json!([{"name": "http", "port": 8000, "targetPort": 8000, "protocol": "TCP", "appProtocol": "http"}])
    );
    let slices = made(&object);
    let (name, slice) = slices.first_key_value().unwrap();
    assert_eq!((name.as_str(), slices.len()), ("qwen-when-ready-ipv4", 1));
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels[SERVICE_NAME], "qwen");
    assert_eq!(labels[SLICE_MANAGED_BY], MANAGER);
    assert_eq!(slice.address_type, "IPv4");
    assert_eq!(slice.endpoints[0].addresses, ["10.0.0.5"]);
    assert_eq!(conditions(slice), (Some(true), Some(true), Some(false)));
    assert!(service_is(&service, &service) && slice_is(slice, slice));
}

#[test]
fn an_empty_list_exposes_nothing_and_an_absent_one_without_a_server_neither() {
    let none = object(&format!("{QWEN}  expose: []\n"), "qwen");
    assert_eq!(
        exposed(&none),
        Exposed {
            asked: true,
            ports: vec![]
        }
    );
    let plain = object(
        "kind: PhoenixLXC\nmetadata: {name: qwen}\nspec: {hypervisorRef: {name: pve}}",
        "qwen",
    );
    assert_eq!(exposed(&plain), Exposed::default());
    let alone = object(&QWEN.replace("model: m", "model: m, host: 127.0.0.1"), "qwen");
    assert_eq!(exposed(&alone), Exposed::default(), "it listens for the guest alone");
    let dotted = object(&QWEN.replace("qwen", "qwen.large"), "qwen.large");
    assert_eq!(
        exposed(&dotted),
        Exposed::default(),
        "no Service can be called so, and nobody asked"
    );
}

#[test]
fn ports_are_those_of_the_spec_in_slices_by_when() {
    let listed = format!(
        "{QWEN}  expose:
  - {{name: http, port: 80, targetPort: 8000}}
  - {{name: ssh, port: 22, when: Always}}
  - {{name: dns, port: 53, protocol: UDP, appProtocol: example.com/dns}}
"
    );
    let object = with(&listed, "fd00::5", &[("Healthy", "False", Reason::ProbeFailed)]);
    let slices = made(&object);
    assert_eq!(
        slices.keys().collect::<Vec<_>>(),
        ["qwen-always-ipv6", "qwen-when-ready-ipv6"]
    );
    let ports = |slice: &EndpointSlice| {
        let ports = slice.ports.iter().flatten();
        ports
            .map(|p| (p.name.clone().unwrap(), p.port.unwrap(), p.protocol.clone().unwrap()))
            .collect::<Vec<_>>()
    };
    let tcp = |name: &str, port| (name.to_string(), port, "TCP".to_string());
    assert_eq!(ports(&slices["qwen-always-ipv6"]), [tcp("ssh", 22)]);
    let ready = &slices["qwen-when-ready-ipv6"];
    assert_eq!(ports(ready), [tcp("http", 8000), ("dns".into(), 53, "UDP".into())]);
    assert_eq!(ready.address_type, "IPv6");
    assert_eq!(conditions(ready).0, Some(false));
    assert_eq!(conditions(&slices["qwen-always-ipv6"]).0, Some(true));
    let names = slice_names("qwen");
    assert!(slices.keys().all(|name| names.contains(name)), "{names:?}");
}

#[test]
fn traffic_is_sent_while_the_guest_works() {
    use Reason as R;
    for (told, expected) in [
        (vec![("Healthy", "True", R::Healthy)], Some(true)),
        // A change that needs no restart takes Ready away for a moment, and not the traffic.
        (
            vec![("Ready", "False", R::InProgress), ("Healthy", "True", R::Healthy)],
            Some(true),
        ),
        (vec![("Healthy", "False", R::ModelLoading)], Some(false)),
        (
            vec![("Healthy", "Unknown", R::Starting), ("Ready", "False", R::InProgress)],
            Some(false),
        ),
        // The model server is being installed anew.
        (
            vec![
                ("Healthy", "True", R::Healthy),
                ("ApplicationReady", "False", R::ScriptRunning),
            ],
            Some(false),
        ),
        // Without probes Ready tells.
        (vec![("Ready", "True", R::Ready)], Some(true)),
        (vec![("Ready", "False", R::InProgress)], Some(false)),
        (vec![], Some(false)),
        // Proxmox's API is away: the guest may well work, and what was so stays. A node that is off is another thing.
        (vec![("Healthy", "Unknown", R::HypervisorUnreachable)], None),
        (vec![("Ready", "Unknown", R::HypervisorUnreachable)], None),
        (vec![("Healthy", "Unknown", R::NodeOffline)], Some(false)),
    ] {
        assert_eq!(works(&with(QWEN, "10.0.0.5", &told)), expected, "{told:?}");
    }
    let unknown = with(QWEN, "10.0.0.5", &[("Healthy", "Unknown", R::HypervisorUnreachable)]);
    for before in [true, false] {
        let slices = slices(&unknown, &exposed(&unknown), |_| before);
        assert_eq!(conditions(&slices["qwen-when-ready-ipv4"]).0, Some(before));
    }
}

#[test]
fn a_guest_that_stops_or_goes_is_sent_nothing() {
    let stopped = healthy(&format!("{QWEN}  powerState: Stopped\n"));
    assert_eq!(
        conditions(&made(&stopped)["qwen-when-ready-ipv4"]),
        (Some(false), Some(false), Some(true))
    );
    let goes = GuestObject {
        deleting: true,
        ..healthy(QWEN)
    };
    assert_eq!(
        conditions(&made(&goes)["qwen-when-ready-ipv4"]),
        (Some(false), Some(false), Some(true))
    );
}

#[test]
fn what_hinders_is_told_with_field_and_fix() {
    let reason = |object: &GuestObject| hindrance(object).map(|cause| cause.reason);
    assert_eq!(reason(&healthy(QWEN)), None);
    assert_eq!(reason(&object(QWEN, "qwen")), Some(Reason::AddressPending));
    for odd in ["127.0.0.1", "169.254.0.1", "fe80::1", "no address"] {
        let object = with(QWEN, odd, &[]);
        assert_eq!(reason(&object), Some(Reason::AddressPending), "{odd}");
        assert!(made(&object).is_empty());
    }
    for name in ["qwen.large", "7b", &"a".repeat(64), "a-"] {
        let object = object(&QWEN.replace("qwen", name), name);
        assert_eq!(reason(&object), Some(Reason::InvalidSpec), "{name}");
    }
}

#[test]
fn whose_a_service_is_its_controller_tells() {
    let object = healthy(QWEN);
    let ours = service(&object, &exposed(&object)).metadata;
    assert_eq!(whose(&ours, &object), Whose::Ours);
    assert_eq!(owner_of(&ours), Some((GuestKind::PhoenixLXC, "qwen")));
    let again = GuestObject {
        uid: "u-2".into(),
        ..object.clone()
    };
    assert_eq!(whose(&ours, &again), Whose::Earlier);
    assert_eq!(whose(&ObjectMeta::default(), &object), Whose::Others);
    let mut other = object;
    other.key.kind = GuestKind::PhoenixVM;
    assert_eq!(whose(&ours, &other), Whose::Others, "a machine of the same name");
}

#[test]
fn what_others_add_to_a_service_is_theirs() {
    let object = healthy(QWEN);
    let wanted = service(&object, &exposed(&object));
    let mut found = wanted.clone();
    found.spec.as_mut().unwrap().cluster_ip = Some("10.96.0.9".into());
    found
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("team".into(), "ai".into());
    assert!(service_is(&found, &wanted));
    found.metadata.owner_references = None;
    assert!(!service_is(&found, &wanted));
}

#[test]
fn a_family_that_services_lack_is_told() {
    let object = with(QWEN, "fd00::5", &[]);
    let mut found = service(&object, &exposed(&object));
    assert_eq!(family_missing(&found, &object), None, "not known");
    found.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into()]);
    let told = family_missing(&found, &object).unwrap();
    assert!(told.message.contains("fd00::5 is IPv6"), "{told}");
    found.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
    assert_eq!(family_missing(&found, &object), None);
}
