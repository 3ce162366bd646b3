//! Types that several kinds share.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::schema;

/// Names an object in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// Names an object, by default in the namespace of the object that refers to it.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Name of the object.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Namespace of the object. Default: the namespace of the object that refers to it. A PhoenixHypervisor of another
    /// namespace must list this one in its `allowedNamespaces`.
    #[serde(default)]
    #[schemars(schema_with = "schema::object_name")]
    pub namespace: Option<String>,
}

/// One key of a Secret or ConfigMap of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// One network interface of a guest.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.gateway) || (has(self.ip) && isCIDR(self.ip))", "message": "gateway needs a static ip such as 10.0.0.150/24"},
    {"rule": "!has(self.gateway6) || (has(self.ip6) && isCIDR(self.ip6))", "message": "gateway6 needs a static ip6 such as fd00::10/64"},
    {"rule": "!has(self.model) || self.model == 'virtio' || (!has(self.queues) && !has(self.mtu))", "message": "queues and mtu belong to model: virtio: leave them out, or choose that model"}
]))]
pub struct Network {
    /// Interface name inside the guest, such as eth0. It identifies the entry: reordering the list changes nothing.
    #[schemars(schema_with = "schema::interface")]
    pub name: String,
    /// Bridge on the node. Default: the hypervisor's `defaults.bridge`.
    #[serde(default)]
    #[schemars(schema_with = "schema::bridge")]
    pub bridge: Option<String>,
    /// VLAN tag.
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<i64>,
    /// MAC address. Default: Proxmox makes one, and it is kept.
    #[serde(default)]
    #[schemars(schema_with = "schema::mac")]
    pub mac: Option<String>,
    /// IPv4: an address with prefix length, `dhcp` or `manual`.
    #[serde(default)]
    #[schemars(schema_with = "schema::ipv4_or_dhcp")]
    pub ip: Option<String>,
    /// IPv4 gateway. It may lie outside the network of `ip` (routed addresses such as a /32): then it gets a route of its
    /// own.
    #[serde(default)]
    #[schemars(schema_with = "schema::ipv4")]
    pub gateway: Option<String>,
    /// IPv6: an address with prefix length, `auto` (SLAAC), `dhcp` or `manual`.
    #[serde(default)]
    #[schemars(schema_with = "schema::ipv6_or_auto")]
    pub ip6: Option<String>,
    /// IPv6 gateway. It may lie outside the network of `ip6`.
    #[serde(default)]
    #[schemars(schema_with = "schema::ipv6")]
    pub gateway6: Option<String>,
    /// MTU; at most the bridge's.
    #[schemars(range(min = 64, max = 65535))]
    pub mtu: Option<i64>,
    /// Rate limit in megabytes per second.
    #[schemars(range(min = 1, max = 100_000))]
    pub rate: Option<i64>,
    /// Whether the Proxmox firewall guards this interface.
    pub firewall: Option<bool>,
    /// VLANs that pass through to the guest with their tags. Absent: unmanaged; empty: none.
    #[serde(default)]
    #[schemars(schema_with = "schema::trunks")]
    pub trunks: Option<Vec<i64>>,
    /// Whether the interface is disconnected, as if the cable were pulled. Absent: unmanaged; Proxmox's own choice is false.
    pub link_down: Option<bool>,
    /// Machines only: the model of the card. A change of model keeps the MAC address. Absent: an existing card stays as it
    /// is; virtio for a new interface.
    pub model: Option<NicModel>,
    /// Machines only: packet queues of the card, at most as many as the machine has processors. They need model
    /// virtio. Absent: unmanaged; Proxmox's own choice is one.
    #[schemars(range(min = 1, max = 64))]
    pub queues: Option<i64>,
}

/// Network card of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// Paravirtual, the fastest; Windows needs a driver for it.
    #[default]
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Intel 82574L.
    E1000e,
    /// Realtek RTL8139.
    Rtl8139,
    /// VMware's.
    Vmxnet3,
}

impl NicModel {
    /// Proxmox's word.
    pub fn as_str(self) -> &'static str {
        match self {
            NicModel::Virtio => "virtio",
            NicModel::E1000 => "e1000",
            NicModel::E1000e => "e1000e",
            NicModel::Rtl8139 => "rtl8139",
            NicModel::Vmxnet3 => "vmxnet3",
        }
    }
}

/// Name resolution of a guest.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.searchDomain) || !has(self.searchDomains)", "message": "give searchDomain or searchDomains, not both"}
]))]
pub struct Dns {
    /// Addresses of name servers. Absent: the hypervisor's defaults, else the node's.
    #[schemars(length(max = 8))]
    pub nameservers: Option<Vec<IpAddress>>,
    /// Search domain; several are separated by spaces.
    #[serde(default)]
    #[schemars(schema_with = "schema::search_domain")]
    pub search_domain: Option<String>,
    /// Search domains, in the order in which they are tried; in place of `searchDomain`.
    #[serde(default)]
    #[schemars(schema_with = "schema::search_domains")]
    pub search_domains: Option<Vec<String>>,
}

/// An IP address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IpAddress(pub String);

impl JsonSchema for IpAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IpAddress".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schema::ip(generator)
    }
}

/// A Proxmox tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(pub String);

impl JsonSchema for Tag {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Tag".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schema::tag(generator)
    }
}

/// When the node starts and stops a guest by itself.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// Start the guest when its node boots.
    pub autostart: Option<bool>,
    /// Position in the boot order; lower starts first and stops last.
    #[schemars(range(min = 0, max = 100_000))]
    pub order: Option<i64>,
    /// Seconds to wait after starting this guest before the next one starts.
    #[schemars(range(min = 0, max = 86_400))]
    pub up_delay: Option<i64>,
    /// Seconds to wait for this guest to shut down before the next one is stopped.
    #[schemars(range(min = 0, max = 86_400))]
    pub down_delay: Option<i64>,
}

/// Guest firewall. It works only where the network entry has `firewall: true` and the datacenter firewall is on.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Firewall {
    /// Whether the guest's firewall is on.
    pub enabled: Option<bool>,
    /// What happens to incoming traffic that no rule names.
    pub inbound_policy: Option<FirewallAction>,
    /// What happens to outgoing traffic that no rule names.
    pub outbound_policy: Option<FirewallAction>,
    /// Rules in order. Phoenix owns the whole list when it is present; absent leaves the rules alone.
    #[schemars(length(max = 64))]
    pub rules: Option<Vec<FirewallRule>>,
}

/// What a firewall does with traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FirewallAction {
    /// Let it pass.
    #[serde(rename = "ACCEPT")]
    Accept,
    /// Discard it silently.
    #[serde(rename = "DROP")]
    Drop,
    /// Refuse it with a reply.
    #[serde(rename = "REJECT")]
    Reject,
}

/// Direction of traffic, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FirewallDirection {
    /// To the guest.
    In,
    /// From the guest.
    Out,
}

/// One firewall rule.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!(has(self.port) || has(self.sourcePort)) || has(self.protocol)", "message": "port needs protocol: tcp or udp"}
]))]
pub struct FirewallRule {
    /// `in` or `out`.
    pub direction: FirewallDirection,
    /// What happens to matching traffic.
    pub action: FirewallAction,
    /// Protocol such as tcp, udp or icmp.
    #[schemars(length(max = 16))]
    pub protocol: Option<String>,
    /// Source address, network, IP set (`+name`) or alias.
    #[schemars(length(max = 512))]
    pub source: Option<String>,
    /// Destination address, network, IP set (`+name`) or alias.
    #[schemars(length(max = 512))]
    pub destination: Option<String>,
    /// Destination port, range (8000:8010) or list (80,443).
    #[serde(default)]
    #[schemars(schema_with = "schema::ports")]
    pub port: Option<String>,
    /// Source port, range or list.
    #[serde(default)]
    #[schemars(schema_with = "schema::ports")]
    pub source_port: Option<String>,
    /// Name of the guest's interface that the rule applies to (an entry of `network`). Absent: all.
    #[serde(default)]
    #[schemars(schema_with = "schema::interface")]
    pub interface: Option<String>,
    /// Proxmox firewall macro such as SSH or HTTPS.
    #[serde(rename = "macro")]
    #[schemars(length(max = 128))]
    pub macro_name: Option<String>,
    /// A comment for people.
    #[schemars(length(max = 256))]
    pub comment: Option<String>,
    /// Whether the rule is in force. Default: true.
    pub enabled: Option<bool>,
}

/// A feature to install in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureRef {
    /// Name or alias of a PhoenixFeature in the object's namespace, else in the hypervisor's.
    #[schemars(schema_with = "schema::entry_name")]
    pub name: String,
    /// Values for the feature's parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub parameters: BTreeMap<String, String>,
}

/// When a script that already ran is run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RerunPolicy {
    /// When the script, its files, parameters or environment changed.
    #[default]
    OnChange,
    /// After every start of the guest, and when it changed.
    Always,
    /// Never; a change is only reported.
    Never,
}

/// Who made the script and what it may expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScriptContract {
    /// Runs as `user` in `workingDirectory` with its environment.
    #[default]
    Phoenix,
    /// Runs as under the legacy managers: in /tmp/phoenix_run, its files beside it, with the guest's id as its first argument.
    Legacy,
}

/// A script that makes the guest what it is for, run once after its features.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.script) != has(self.scriptFrom)", "message": "give exactly one of script and scriptFrom"},
    {"rule": "!has(self.contract) || self.contract != 'Legacy' || (!has(self.user) && !has(self.workingDirectory))",
     "message": "leave out user and workingDirectory: with contract Legacy a script runs as root in /tmp/phoenix_run"}
]))]
pub struct Application {
    /// The script, inline. Begin it with #! to choose the interpreter.
    #[schemars(length(min = 1, max = 131_072))]
    pub script: Option<String>,
    /// The script, from a key of a ConfigMap in the object's namespace.
    pub script_from: Option<KeyRef>,
    /// Files put into the guest before the script runs.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    pub files: Option<Vec<GuestFile>>,
    /// Environment of the script.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub environment: Option<Vec<EnvVar>>,
    /// User in the guest that the script runs as; it must exist when the script begins. Files in the script's own folder
    /// belong to root: give each a mode that lets others read it, as the default does. Default: root.
    #[serde(default)]
    #[schemars(schema_with = "schema::user_name")]
    pub user: Option<String>,
    /// Folder that the script runs in; it must exist. Default: the folder that holds the script and its files, which users
    /// other than root can only read.
    #[serde(default)]
    #[schemars(schema_with = "schema::absolute_path")]
    pub working_directory: Option<String>,
    /// What the script may expect. Default: Phoenix.
    pub contract: Option<ScriptContract>,
    /// When a script that succeeded is run again: OnChange when it, its files or its environment changed, Always also
    /// after every start of the guest, Never not even when it changed. Default: OnChange.
    pub rerun_policy: Option<RerunPolicy>,
    /// Seconds after which the script is stopped. Default: 3600.
    #[schemars(range(min = 1, max = 86_400))]
    pub deadline_seconds: Option<i64>,
}

/// A file to put into a guest.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.content) != has(self.contentFrom)", "message": "give exactly one of content and contentFrom"}
]))]
pub struct GuestFile {
    /// Absolute path in the guest, or a path beside the script.
    #[schemars(schema_with = "schema::file_path")]
    pub path: String,
    /// Its content.
    #[schemars(length(max = 131_072))]
    pub content: Option<String>,
    /// Its content, from a key of a ConfigMap.
    pub content_from: Option<KeyRef>,
    /// Octal mode. Default: 0644.
    #[serde(default)]
    #[schemars(schema_with = "schema::file_mode")]
    pub mode: Option<String>,
}

/// One environment variable.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.value) != has(self.secretKeyRef)", "message": "give exactly one of value and secretKeyRef"}
]))]
pub struct EnvVar {
    /// Name of the variable.
    #[schemars(schema_with = "schema::env_name")]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 32_768))]
    pub value: Option<String>,
    /// Its value, from a key of a Secret in the object's namespace.
    pub secret_key_ref: Option<KeyRef>,
}

/// A port of the guest that the cluster reaches by the object's name: a Service without selector and its EndpointSlices.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expose {
    /// Name of the port, by which an Ingress or a ServiceMonitor names it.
    #[schemars(schema_with = "schema::port_name")]
    pub name: String,
    /// Port of the Service.
    #[schemars(schema_with = "schema::port")]
    pub port: i64,
    /// Port of the guest. Default: `port`.
    #[serde(default)]
    #[schemars(schema_with = "schema::port")]
    pub target_port: Option<i64>,
    /// Protocol. Default: TCP.
    pub protocol: Option<ExposeProtocol>,
    /// What is spoken over it, for gateways and meshes, such as http, https or kubernetes.io/h2c.
    #[serde(default)]
    #[schemars(schema_with = "schema::app_protocol")]
    pub app_protocol: Option<String>,
    /// When the guest is sent traffic: Ready while it works, as its probes say, or Always while it has an address.
    /// Default: Ready.
    pub when: Option<ExposeWhen>,
}

/// Protocol of an exposed port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ExposeProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// When a guest is sent traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ExposeWhen {
    /// While it works.
    #[default]
    Ready,
    /// While it has an address.
    Always,
}

/// Whether a guest works. Probes run inside the guest, once its scripts have run.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.startup) || !has(self.startup.successThreshold) || self.startup.successThreshold == 1", "message": "startup.successThreshold must be 1"},
    {"rule": "!has(self.liveness) || !has(self.liveness.successThreshold) || self.liveness.successThreshold == 1", "message": "liveness.successThreshold must be 1"},
    {"rule": "!has(self.restartUnit) || has(self.startup) || has(self.liveness)", "message": "restartUnit is for a startup or liveness probe: give one of them"}
]))]
pub struct Health {
    /// Holds the other probes back until it has succeeded once after each start. When it has failed failureThreshold times,
    /// the unit or the guest is restarted.
    pub startup: Option<Probe>,
    /// Whether the guest can do its work: decides `Healthy` and so `Ready`.
    pub readiness: Option<Probe>,
    /// Whether it still works at all. When it has failed failureThreshold times in a row, the unit or the guest is
    /// restarted.
    pub liveness: Option<Probe>,
    /// systemd unit in the guest that is restarted when the startup or the liveness probe has failed. Default: the whole
    /// guest is restarted.
    #[serde(default)]
    #[schemars(schema_with = "schema::systemd_unit")]
    pub restart_unit: Option<String>,
}

/// A probe, with the fields of Kubernetes' probes.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.exec), has(self.httpGet), has(self.tcpSocket)].filter(x, x).size() == 1", "message": "give exactly one of exec, httpGet and tcpSocket"}
]))]
pub struct Probe {
    /// A command; exit code 0 means success.
    pub exec: Option<ExecAction>,
    /// An HTTP GET; a status from 200 to 399 means success.
    pub http_get: Option<HttpGetAction>,
    /// A TCP connection; opening it means success.
    pub tcp_socket: Option<TcpSocketAction>,
    /// Seconds after the start before the first probe. Default: 0.
    #[schemars(range(min = 0, max = 86_400))]
    pub initial_delay_seconds: Option<i64>,
    /// Seconds between probes. Default: 10.
    #[schemars(range(min = 1, max = 86_400))]
    pub period_seconds: Option<i64>,
    /// Seconds after which a probe has failed. Default: 1.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: Option<i64>,
    /// Successes in a row that make it healthy. Default: 1.
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: Option<i64>,
    /// Failures in a row that make it unhealthy. Default: 3.
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: Option<i64>,
}

/// A command to run in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecAction {
    /// Program and arguments; no shell is involved.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
}

/// An HTTP GET from inside the guest.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGetAction {
    /// Path. Default: /.
    #[schemars(length(max = 1024))]
    pub path: Option<String>,
    /// Port.
    #[schemars(schema_with = "schema::port")]
    pub port: i64,
    /// Host. Default: 127.0.0.1.
    #[serde(default)]
    #[schemars(schema_with = "schema::hostname")]
    pub host: Option<String>,
    /// HTTP, or HTTPS without checking the certificate. Default: HTTP.
    pub scheme: Option<HttpScheme>,
}

/// Scheme of an HTTP probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpScheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

/// A TCP connection from inside the guest.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TcpSocketAction {
    /// Port.
    #[schemars(schema_with = "schema::port")]
    pub port: i64,
    /// Host. Default: 127.0.0.1.
    #[serde(default)]
    #[schemars(schema_with = "schema::hostname")]
    pub host: Option<String>,
}

/// What a test is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TestKind {
    /// Checks whether one part works.
    #[default]
    Health,
    /// Checks whether the parts work together.
    Integration,
}

/// A script that is run once after provisioning; its result never blocks `Ready`.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.script) != has(self.scriptFrom)", "message": "give exactly one of script and scriptFrom"}
]))]
pub struct GuestTest {
    /// Name of the test.
    #[schemars(schema_with = "schema::entry_name")]
    pub name: String,
    /// What the test is for. Default: Health.
    pub kind: Option<TestKind>,
    /// The script, inline.
    #[schemars(length(min = 1, max = 131_072))]
    pub script: Option<String>,
    /// The script, from a key of a ConfigMap in the object's namespace.
    pub script_from: Option<KeyRef>,
    /// Seconds after which the test has failed. Default: 300.
    #[schemars(range(min = 1, max = 86_400))]
    pub deadline_seconds: Option<i64>,
}

/// Another object that must be Ready first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Kind of the object.
    #[serde(default)]
    pub kind: GuestKind,
    /// Name of the object, in the same namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// The kinds that stand for a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GuestKind {
    /// A container.
    #[default]
    PhoenixLXC,
    /// A virtual machine.
    PhoenixVM,
    /// A template.
    PhoenixTemplate,
}

impl GuestKind {
    /// The kind's name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            GuestKind::PhoenixLXC => "PhoenixLXC",
            GuestKind::PhoenixVM => "PhoenixVM",
            GuestKind::PhoenixTemplate => "PhoenixTemplate",
        }
    }
}

/// Whether a guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PowerState {
    /// Kept running.
    #[default]
    Running,
    /// Kept stopped.
    Stopped,
}

/// What happens to the guest when its object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The guest is destroyed. Volumes with reclaimPolicy Retain stay.
    Delete,
    /// The guest stays; only Phoenix's stamp is removed.
    Retain,
}

/// What happens to a volume when its guest is destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// It stays, and is attached again when the object comes back.
    #[default]
    Retain,
    /// It is destroyed with the guest.
    Delete,
}

/// Whether Phoenix may restart a guest to apply a change that needs it.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdatePolicy {
    /// Never (report RestartRequired and wait) or Automatic. Default: Never.
    pub restart: Option<RestartPolicy>,
}

/// When a guest is restarted for a pending change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartPolicy {
    /// Never by itself.
    #[default]
    Never,
    /// As soon as a change needs it.
    Automatic,
}
