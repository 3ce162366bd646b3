# shellcheck shell=sh
# What the scripts of the test node share; read with `.`, never run.
#
# A node is one folder (NODE): keys and configuration of its sshd, sockets, and below lxc/ one folder a container.
# The cache (CACHE) holds what is the same for all nodes: root file systems, packages, wheels.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/phoenix/node-1
export CACHE

say() { echo "node: $*" >&2; }
die() {
	say "$*"
	exit 1
}

# Name of a node's container. LXC's sockets and cgroups are the machine's, so the node is part of it.
container() { echo "phx-$(cat "$NODE/id")-$1"; }

# Whether a container runs.
running() { [ "$(lxc-info -P "$NODE/lxc" -n "$(container "$1")" -s -H 2>/dev/null)" = RUNNING ]; }

# kill_recorded FILE WORD: ends the process of a pid file if it is still the one that wrote it (its command line has
# WORD in it), and waits until it is gone.
kill_recorded() {
	pid=$(cat "$1" 2>/dev/null) || return 0
	rm -f "$1"
	tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$2" || return 0
	kill "$pid" 2>/dev/null || return 0
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		[ -d "/proc/$pid" ] || return 0
		sleep 0.1
	done
	kill -9 "$pid" 2>/dev/null || true
}
