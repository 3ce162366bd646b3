#!/bin/sh
# Runs a command inside the namespaces of a node: e2e/pods/in.sh DIR COMMAND...
set -eu
dir=$1
shift
pid=$(cat "$dir/pid")
first=$(cut -d " " -f 1 "/proc/$pid/task/$pid/children")
exec nsenter -t "$first" -n -m -p -u -i env KUBECONFIG="$dir/admin.kubeconfig" "$@"
