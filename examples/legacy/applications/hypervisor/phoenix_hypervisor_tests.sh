#!/bin/sh
# Shows the state of the node: version, storages, pools, GPUs. Runs on the node, changes nothing.
set -u
failed=0
run() {
    echo "== $*"
    "$@" || { echo "FAIL  $*" >&2; failed=1; }
}
run pveversion
run pvesm status
# "all pools are healthy" is the whole answer of a good day.
run zpool status -x
run nvidia-smi --query-gpu=index,name,driver_version,memory.total --format=csv
run pct list
exit "$failed"
