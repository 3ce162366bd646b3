//! The human monitor of a machine: who may say what (facts F.7). What it answers to a running machine is made up.

use super::call::{Answer, Call, Reply};
use crate::simulator::model::{ApiError, State};

/// Commands for everybody who may use the monitor.
const FREE: &str = "help ? info";
/// Commands for those who manage the cluster.
const MANAGED: &str = "gpa2hpa gpa2hva i announce_self backup_cancel balloon block_job_cancel block_job_complete \
    block_job_pause block_job_resume block_job_set_speed block_resize block_set_io_throttle boot_set calc_dirty_rate \
    cancel_vcpu_dirty_limit chardev-send-break closefd commit cont c cpu delvm eject exit_preconfig expire_password \
    getfd gva2gpa loadvm log migrate_cancel migrate_continue migrate_pause migrate_set_capability \
    migrate_set_parameter migrate_start_postcopy mouse_button mouse_move mouse_set one-insn-per-tb print p qemu-io \
    qom-get qom-list quit q replay_break replay_delete_break replay_seek ringbuf_read ringbuf_write savevm sendkey \
    set_link set_password set_vcpu_dirty_limit snapshot_blkdev_internal snapshot_delete_blkdev_internal stopcapture \
    stop s sum sync-profile system_powerdown system_reset system_wakeup trace-event x x_colo_lost_heartbeat xp";
/// Commands for the true root.
const ROOT: &str = "backup block_stream change chardev-add chardev-change chardev-remove client_migrate_info device_add \
    device_del drive_add drive_backup drive_del drive_mirror dump-guest-memory dumpdtb gdbserver hostfwd_add \
    hostfwd_remove logfile mce memsave migrate migrate_incoming migrate_recover nbd_server_add nbd_server_remove \
    nbd_server_start nbd_server_stop netdev_add netdev_del nmi o object_add object_del pcie_aer_inject_error pmemsave \
    qom-set savevm-end savevm-start screendump snapshot_blkdev watchdog_action wavcapture xen-event-inject \
    xen-event-list";

fn is_in(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|known| known == word)
}

/// `POST …/monitor`: an error of the machine is part of the answer.
pub fn command(state: &mut State, call: &Call) -> Answer {
    let text = call.params.text("command");
    let (node, vmid) = (call.params.node(), call.params.vmid());
    let Some(word) = text.split_whitespace().next() else {
        let blank = format!("unexpected command '{text}'");
        return Err(ApiError::die(if text.is_empty() {
            "no command specified".to_owned()
        } else {
            blank
        }));
    };
    if is_in(MANAGED, word) {
        state.need(&call.caller, "/", &["Sys.Modify"])?;
    } else if !is_in(FREE, word) && !call.caller.is_true_root() {
        return Err(ApiError::die(if is_in(ROOT, word) {
            format!("root-only command '{word}'")
        } else {
            format!("command '{word}' non-existent or not assigned a required permission yet, limiting to root user")
        }));
    }
    let running = state.vm(&node, vmid)?.running.is_some();
    Ok(if running {
        String::new()
    } else {
        format!("ERROR: VM {vmid} not running\n")
    }
    .into())
}

/// `PUT …/sendkey`.
pub fn send_key(state: &mut State, call: &Call) -> Answer {
    let (node, vmid) = (call.params.node(), call.params.vmid());
    state.check_vm_skiplock(&call.caller, call.params.flag("skiplock"))?;
    if state.vm(&node, vmid)?.running.is_none() {
        return Err(ApiError::die(format!("VM {vmid} not running")));
    }
    Ok(Reply::NULL)
}
