//! Which function answers which method of a virtual machine.

use super::routes::Handler;
use super::{index, lxc, qemu, qemu_agent, qemu_monitor, qemu_status};

/// Path of a machine.
pub const QEMU: &str = "/nodes/{node}/qemu/{vmid}";

/// The function for what is below [`QEMU`].
pub fn handler(verb: &str, rest: &str) -> Option<Handler> {
    if let Some(name) = rest.strip_prefix("/agent") {
        return agent_handler(verb, name);
    }
    let found: Handler = match (verb, rest) {
        ("DELETE", "") => qemu::destroy,
        ("GET", "/config") => qemu::config,
        ("PUT", "/config") => qemu::update,
        ("POST", "/config") => qemu::update_in_task,
        ("GET", "/pending") => qemu::pending,
        ("PUT", "/unlink") => qemu::unlink,
        ("POST", "/clone") => qemu::clone,
        ("POST", "/template") => qemu::template,
        ("PUT", "/resize") => qemu::resize,
        ("POST", "/move_disk") => qemu::move_disk,
        ("GET", "/feature") => qemu::feature,
        ("GET", "/migrate") => qemu::migration_conditions,
        ("POST", "/migrate") => qemu::migrate,
        ("GET", "/rrddata") => lxc::rrddata,
        ("GET", "/cloudinit") => qemu::cloud_init,
        ("PUT", "/cloudinit") => qemu::regenerate_cloud_init,
        ("GET", "/cloudinit/dump") => qemu::dump_cloud_init,
        ("POST", "/monitor") => qemu_monitor::command,
        ("PUT", "/sendkey") => qemu_monitor::send_key,
        ("GET", "/status/current") => qemu::status,
        ("POST", "/status/start") => qemu_status::start,
        ("POST", "/status/stop") => qemu_status::stop,
        ("POST", "/status/shutdown") => qemu_status::shutdown,
        ("POST", "/status/reboot") => qemu_status::reboot,
        ("POST", "/status/reset") => qemu_status::reset,
        ("POST", "/status/suspend") => qemu_status::suspend,
        ("POST", "/status/resume") => qemu_status::resume,
        ("GET", "/snapshot") => qemu_status::snapshots,
        ("POST", "/snapshot") => qemu_status::snapshot,
        ("DELETE", "/snapshot/{snapname}") => qemu_status::delete_snapshot,
        ("GET", "/snapshot/{snapname}/config") => qemu_status::snapshot_config,
        ("PUT", "/snapshot/{snapname}/config") => qemu_status::describe_snapshot,
        ("POST", "/snapshot/{snapname}/rollback") => qemu_status::rollback,
        ("GET", _) => return index::handler(&format!("{QEMU}{rest}")),
        _ => return None,
    };
    Some(found)
}

fn agent_handler(verb: &str, name: &str) -> Option<Handler> {
    let found: Handler = match (verb, name) {
        ("GET", "") => return index::handler(&format!("{QEMU}/agent")),
        ("POST", "") => qemu_agent::any_command,
        ("POST", "/exec") => qemu_agent::exec,
        ("GET", "/exec-status") => qemu_agent::exec_status,
        ("GET", "/file-read") => qemu_agent::file_read,
        ("POST", "/file-write") => qemu_agent::file_write,
        ("POST", "/set-user-password") => qemu_agent::set_user_password,
        _ => qemu_agent::command,
    };
    Some(found)
}
