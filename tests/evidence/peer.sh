#!/bin/sh
# The least that a program can do for a guest, for `cargo bench --bench peers`: create it, wait, start it, wait.
set -eu

call() {
    method=$1 path=$2
    shift 2
    curl --silent --show-error --fail --cacert "$PROXMOX_CA" --header "Authorization: PVEAPIToken=$PROXMOX_TOKEN" \
        --request "$method" "$PROXMOX_URL/api2/json/nodes/$PROXMOX_NODE/$path" "$@"
}

# Starts a task and looks at it every half second until it has ended.
follow() {
    task=$(call "$@" | sed 's/.*"data":"\([^"]*\)".*/\1/')
    until call GET "tasks/$task/status" | grep -q '"stopped"'; do sleep 0.5; done
}

for vmid in $(seq 3001 $((3000 + PEER_GUESTS))); do
    follow POST lxc --data "vmid=$vmid" --data "hostname=g$vmid" --data-urlencode "ostemplate=$PEER_IMAGE" \
        --data rootfs=quickOS-lxc-disks:8 --data unprivileged=1
    follow POST "lxc/$vmid/status/start"
done
