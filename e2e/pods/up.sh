#!/usr/bin/env bash
# Starts a Kubernetes node that runs pods, in namespaces of its own: it takes no port of the machine, has no way out, and
# goes with its first process.
#
#   e2e/pods/up.sh DIR BIN IMAGE.tar...
#
# DIR gets its state, logs and admin.kubeconfig; BIN has the Kubernetes programs. The images are there for pods to use
# (imagePullPolicy: Never). It stays in the foreground until it is killed. DIR/up is there once the node is Ready.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$1"
dir=$(realpath "$1")
bin=$(realpath "$2")
shift 2
images=()
for image in "$@"; do images+=("$(realpath "$image")"); done
"$here/reap.sh"
# `unshare` takes this process's place: its only child is the node's first process.
echo $$ >"$dir/pid"
exec unshare --fork --kill-child=KILL --pid --mount-proc --net --mount --uts --ipc \
	"$here/inner.sh" "$dir" "$bin" "phoenix-pods-$$" "${images[@]}"
