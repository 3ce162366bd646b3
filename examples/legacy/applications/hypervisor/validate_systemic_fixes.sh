#!/bin/sh
# Looks at what containers of this fleet need from their node. Runs on the node, changes nothing.
set -u
failed=0
check() { # what, command...
    what=$1
    shift
    if "$@" > /dev/null 2>&1; then
        echo "ok    $what"
    else
        echo "FAIL  $what" >&2
        failed=1
    fi
}
check "the cluster file system is mounted" mountpoint -q /etc/pve
check "the bridge vmbr0 is there" ip link show vmbr0
check "user ids of unprivileged containers are delegated to root" grep -q '^root:100000:' /etc/subuid
check "AppArmor is on" grep -q Y /sys/module/apparmor/parameters/enabled
check "the NVIDIA module is loaded" test -r /proc/driver/nvidia/version
check "device nodes for CUDA are there" test -c /dev/nvidia-uvm
exit "$failed"
