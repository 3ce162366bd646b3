//! Which function answers which method.

use super::call::{Answer, Call, not_simulated};
use super::{
    access, access_users, backup, cluster, firewall, firewall_rules, index, lxc, lxc_status, mapping, node_info, nodes,
    oci, pools, qemu, resources, routes_qemu, storage, tasks,
};
use crate::simulator::model::State;

/// A method.
pub type Handler = fn(&mut State, &Call) -> Answer;

const LXC: &str = "/nodes/{node}/lxc/{vmid}";
const FIREWALLS: [&str; 2] = [
    "/nodes/{node}/lxc/{vmid}/firewall",
    "/nodes/{node}/qemu/{vmid}/firewall",
];

/// Runs the method.
pub fn call(state: &mut State, verb: &str, template: &str, call: &Call) -> Answer {
    match handler(verb, template) {
        Some(handler) => handler(state, call),
        None => Err(not_simulated(verb, template)),
    }
}

fn handler(verb: &str, template: &str) -> Option<Handler> {
    for firewall in FIREWALLS {
        if let Some(rest) = template.strip_prefix(firewall) {
            return firewall_handler(verb, rest, template);
        }
    }
    if let Some(rest) = template.strip_prefix(LXC) {
        return lxc_handler(verb, rest);
    }
    if let Some(rest) = template.strip_prefix(routes_qemu::QEMU) {
        return routes_qemu::handler(verb, rest);
    }
    if template.starts_with("/cluster/mapping/") {
        return mapping_handler(verb, template);
    }
    let found: Handler = match (verb, template) {
        ("GET", "/version" | "/nodes/{node}/version") => nodes::version,
        ("GET", "/nodes") => nodes::list,
        ("GET", "/nodes/{node}/status") => nodes::status,
        ("GET", "/nodes/{node}/aplinfo") => nodes::appliances,
        ("POST", "/nodes/{node}/aplinfo") => nodes::download_appliance,
        ("POST", "/nodes/{node}/startall") => nodes::start_all,
        ("POST", "/nodes/{node}/stopall") => nodes::stop_all,
        ("GET", "/nodes/{node}/lxc") => lxc::list,
        ("POST", "/nodes/{node}/lxc") => lxc::create,
        ("GET", "/nodes/{node}/qemu") => qemu::list,
        ("POST", "/nodes/{node}/qemu") => qemu::create,
        ("GET", "/nodes/{node}/tasks") => tasks::list,
        ("DELETE", "/nodes/{node}/tasks/{upid}") => tasks::stop,
        ("GET", "/nodes/{node}/tasks/{upid}/log") => tasks::log,
        ("GET", "/nodes/{node}/tasks/{upid}/status") => tasks::status,
        ("GET", "/cluster/tasks") => tasks::cluster_list,
        ("GET", "/cluster/log") => cluster::log,
        ("GET", "/cluster/resources") => resources::list,
        ("GET", "/cluster/nextid") => cluster::next_id,
        ("GET", "/cluster/status") => cluster::status,
        ("GET", "/cluster/options") => cluster::options,
        ("PUT", "/cluster/options") => cluster::set_options,
        ("GET", "/cluster/config/join") => cluster::join_info,
        ("GET", "/cluster/ceph/status") => cluster::no_ceph,
        ("GET", "/cluster/firewall/options") => cluster::empty_object,
        (
            "GET",
            "/cluster/backup"
            | "/cluster/replication"
            | "/cluster/config/nodes"
            | "/cluster/firewall/groups"
            | "/cluster/firewall/aliases"
            | "/cluster/firewall/ipset"
            | "/cluster/firewall/rules"
            | "/cluster/sdn/vnets"
            | "/cluster/sdn/zones"
            | "/cluster/metrics/server"
            | "/cluster/ha/resources"
            | "/cluster/ha/rules"
            | "/cluster/sdn/controllers"
            | "/cluster/sdn/dns"
            | "/cluster/sdn/ipams",
        ) => cluster::empty_list,
        _ => {
            return node_handler(verb, template)
                .or_else(|| storage_handler(verb, template))
                .or_else(|| access_handler(verb, template));
        }
    };
    Some(found)
}

fn node_handler(verb: &str, template: &str) -> Option<Handler> {
    let found: Handler = match (verb, template) {
        ("GET", "/nodes/{node}/network") => node_info::network,
        ("GET", "/nodes/{node}/network/{iface}") => node_info::interface,
        ("GET", "/nodes/{node}/dns") => node_info::dns,
        ("GET", "/nodes/{node}/time") => node_info::time,
        ("GET", "/nodes/{node}/hosts") => node_info::hosts,
        ("GET", "/nodes/{node}/firewall/options") => node_info::firewall_options,
        ("GET", "/nodes/{node}/subscription") => node_info::subscription,
        ("GET", "/nodes/{node}/certificates/info") => node_info::certificates,
        ("GET", "/nodes/{node}/hardware/pci") => node_info::pci,
        ("GET", "/nodes/{node}/capabilities/qemu/migration") => node_info::migration_capabilities,
        ("GET", "/nodes/{node}/capabilities/qemu/cpu") => node_info::processors,
        ("GET", "/nodes/{node}/services/{service}/state") => node_info::service,
        ("GET", "/nodes/{node}/config") => node_info::config,
        ("PUT", "/nodes/{node}/config") => node_info::set_config,
        (
            "GET",
            "/nodes/{node}/services"
            | "/nodes/{node}/hardware/usb"
            | "/nodes/{node}/firewall/rules"
            | "/nodes/{node}/netstat"
            | "/nodes/{node}/replication"
            | "/nodes/{node}/hardware/pci/{pci-id-or-mapping}/mdev",
        ) => node_info::nothing,
        ("GET", "/nodes/{node}/rrddata" | "/nodes/{node}/storage/{storage}/rrddata") => lxc::rrddata,
        _ => return None,
    };
    Some(found)
}

fn storage_handler(verb: &str, template: &str) -> Option<Handler> {
    let found: Handler = match (verb, template) {
        ("GET", "/storage") => storage::definitions,
        ("POST", "/storage") => storage::define,
        ("GET", "/storage/{storage}") => storage::definition,
        ("PUT", "/storage/{storage}") => storage::redefine,
        ("DELETE", "/storage/{storage}") => storage::remove,
        ("GET", "/nodes/{node}/storage") => storage::list,
        ("GET", "/nodes/{node}/storage/{storage}/status") => storage::status,
        ("GET", "/nodes/{node}/storage/{storage}/content") => storage::content,
        ("POST", "/nodes/{node}/storage/{storage}/content") => storage::alloc,
        ("GET", "/nodes/{node}/storage/{storage}/content/{volume}") => storage::volume,
        ("PUT", "/nodes/{node}/storage/{storage}/content/{volume}") => storage::describe,
        ("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}") => storage::delete,
        ("POST", "/nodes/{node}/storage/{storage}/download-url") => storage::download,
        ("POST", "/nodes/{node}/storage/{storage}/oci-registry-pull") => oci::pull,
        ("GET", "/nodes/{node}/query-oci-repo-tags") => oci::tags,
        ("POST", "/nodes/{node}/storage/{storage}/upload") => storage::upload,
        ("GET", "/nodes/{node}/storage/{storage}/prunebackups") => backup::prunable,
        ("DELETE", "/nodes/{node}/storage/{storage}/prunebackups") => backup::prune,
        ("POST", "/nodes/{node}/vzdump") => backup::create,
        ("GET", "/nodes/{node}/vzdump/defaults") => backup::defaults,
        ("GET", "/nodes/{node}/vzdump/extractconfig") => backup::extract_config,
        ("GET", "/cluster/backup-info/not-backed-up") => backup::not_backed_up,
        ("GET", "/nodes/{node}/query-url-metadata") => storage::url_metadata,
        ("GET", "/pools") => pools::list,
        ("POST", "/pools") => pools::create,
        ("PUT", "/pools" | "/pools/{poolid}") => pools::update,
        ("DELETE", "/pools" | "/pools/{poolid}") => pools::delete,
        ("GET", "/pools/{poolid}") => pools::read,
        _ => return None,
    };
    Some(found)
}

fn access_handler(verb: &str, template: &str) -> Option<Handler> {
    let found: Handler = match (verb, template) {
        ("GET", "/access/ticket") => access::nothing,
        ("POST", "/access/ticket") => access::ticket,
        ("PUT", "/access/password") => access::password,
        ("GET", "/access/domains/{realm}") => access::domain,
        ("GET", "/access/domains") => access::domains,
        ("GET", "/access/permissions") => access::permissions,
        ("GET", "/access/acl") => access::acl,
        ("PUT", "/access/acl") => access::set_acl,
        ("GET", "/access/roles") => access::roles,
        ("POST", "/access/roles") => access::create_role,
        ("GET", "/access/roles/{roleid}") => access::role,
        ("PUT", "/access/roles/{roleid}") => access::update_role,
        ("DELETE", "/access/roles/{roleid}") => access::delete_role,
        ("GET", "/access/groups") => access_users::groups,
        ("POST", "/access/groups") => access_users::create_group,
        ("GET", "/access/groups/{groupid}") => access_users::group,
        ("PUT", "/access/groups/{groupid}") => access_users::update_group,
        ("GET", "/access/users/{userid}/tfa") => access_users::second_factors,
        ("DELETE", "/access/groups/{groupid}") => access_users::delete_group,
        ("GET", "/access/users") => access_users::list,
        ("POST", "/access/users") => access_users::create,
        ("GET", "/access/users/{userid}") => access_users::read,
        ("PUT", "/access/users/{userid}") => access_users::update,
        ("DELETE", "/access/users/{userid}") => access_users::delete,
        ("GET", "/access/users/{userid}/token") => access_users::tokens,
        ("GET", "/access/users/{userid}/token/{tokenid}") => access_users::token,
        ("POST", "/access/users/{userid}/token/{tokenid}") => access_users::create_token,
        ("PUT", "/access/users/{userid}/token/{tokenid}") => access_users::update_token,
        ("DELETE", "/access/users/{userid}/token/{tokenid}") => access_users::delete_token,
        ("GET", _) => return index::handler(template),
        _ => return None,
    };
    Some(found)
}

fn lxc_handler(verb: &str, rest: &str) -> Option<Handler> {
    let found: Handler = match (verb, rest) {
        ("DELETE", "") => lxc::destroy,
        ("GET", "/config") => lxc::config,
        ("PUT", "/config") => lxc::update,
        ("GET", "/pending") => lxc::pending,
        ("POST", "/clone") => lxc::clone,
        ("POST", "/template") => lxc::template,
        ("PUT", "/resize") => lxc::resize,
        ("POST", "/move_volume") => lxc::move_volume,
        ("GET", "/feature") => lxc::feature,
        ("GET", "/interfaces") => lxc::interfaces,
        ("GET", "/migrate") => lxc::migration_targets,
        ("POST", "/migrate") => lxc::migrate,
        ("POST", "/remote_migrate") => lxc::remote_migrate,
        ("POST", "/mtunnel") => lxc::tunnel,
        ("GET", "/rrddata") => lxc::rrddata,
        ("GET", "/status/current") => lxc::status,
        ("POST", "/status/start") => lxc_status::start,
        ("POST", "/status/stop") => lxc_status::stop,
        ("POST", "/status/shutdown") => lxc_status::shutdown,
        ("POST", "/status/reboot") => lxc_status::reboot,
        ("POST", "/status/suspend") => lxc_status::suspend,
        ("POST", "/status/resume") => lxc_status::resume,
        ("GET", "/snapshot") => lxc_status::snapshots,
        ("POST", "/snapshot") => lxc_status::snapshot,
        ("DELETE", "/snapshot/{snapname}") => lxc_status::delete_snapshot,
        ("GET", "/snapshot/{snapname}/config") => lxc_status::snapshot_config,
        ("PUT", "/snapshot/{snapname}/config") => lxc_status::describe_snapshot,
        ("POST", "/snapshot/{snapname}/rollback") => lxc_status::rollback,
        ("GET", _) => return index::handler(&format!("{LXC}{rest}")),
        _ => return None,
    };
    Some(found)
}

fn mapping_handler(verb: &str, template: &str) -> Option<Handler> {
    let found: Handler = match (verb, template.ends_with("/{id}")) {
        ("GET", false) => mapping::list,
        ("POST", false) => mapping::create,
        ("GET", true) => mapping::read,
        ("PUT", true) => mapping::update,
        ("DELETE", true) => mapping::delete,
        _ => return None,
    };
    Some(found)
}

fn firewall_handler(verb: &str, rest: &str, template: &str) -> Option<Handler> {
    let found: Handler = match (verb, rest) {
        ("GET", "/options") => firewall::options,
        ("PUT", "/options") => firewall::set_options,
        ("GET", "/rules") => firewall_rules::list,
        ("POST", "/rules") => firewall_rules::create,
        ("GET", "/rules/{pos}") => firewall_rules::read,
        ("PUT", "/rules/{pos}") => firewall_rules::update,
        ("DELETE", "/rules/{pos}") => firewall_rules::delete,
        ("GET", "/aliases") => firewall::aliases,
        ("POST", "/aliases") => firewall::create_alias,
        ("GET", "/aliases/{name}") => firewall::alias,
        ("PUT", "/aliases/{name}") => firewall::update_alias,
        ("DELETE", "/aliases/{name}") => firewall::delete_alias,
        ("GET", "/ipset") => firewall::ipsets,
        ("POST", "/ipset") => firewall::create_ipset,
        ("GET", "/ipset/{name}") => firewall::ipset,
        ("DELETE", "/ipset/{name}") => firewall::delete_ipset,
        ("POST", "/ipset/{name}") => firewall::add_entry,
        ("GET", "/ipset/{name}/{cidr}") => firewall::entry,
        ("PUT", "/ipset/{name}/{cidr}") => firewall::update_entry,
        ("DELETE", "/ipset/{name}/{cidr}") => firewall::delete_entry,
        ("GET", "/refs") => firewall::refs,
        ("GET", "/log") => firewall::log,
        ("GET", _) => return index::handler(template),
        _ => return None,
    };
    Some(found)
}
