#!/bin/bash
# Makes a service user and a timer; written to be run again and again.
source "$(dirname "$0")/phoenix_hypervisor_common_utils.sh"

main() {
    local ctid="$1" user memory
    user=$(jq_get_value "$ctid" ".service_user") || user="svc-app"
    memory=$(jq_get_value "$ctid" ".memory_mb") || { log_error "memory_mb is missing"; exit_script 1; }
    if ! id "$user" > /dev/null 2>&1; then
        run_in_container "$ctid" useradd --system --create-home "$user"
    fi
    if run_pct_command exec "$ctid" -- test -f /etc/systemd/system/beat.timer; then
        log_info "timer is there"
    fi
    printf '[Unit]\nDescription=Beat\n[Service]\nType=oneshot\nUser=%s\nExecStart=/bin/sh -c "echo %s >> /home/%s/beats"\n' \
        "$user" "$memory" "$user" > /etc/systemd/system/beat.service
    printf '[Timer]\nOnBootSec=1\nOnUnitActiveSec=3600\n[Install]\nWantedBy=timers.target\n' > /etc/systemd/system/beat.timer
    systemctl daemon-reload
    systemctl enable --now beat.timer
    systemctl start beat.service
    is_command_available "$ctid" systemctl || exit_script 1
    if is_feature_present_on_container "$ctid" docker; then log_error "no docker is listed"; exit_script 1; fi
    exit_script 0
}
main "$@"
