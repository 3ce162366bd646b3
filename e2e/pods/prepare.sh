#!/usr/bin/env bash
# Makes everything that a node which runs pods needs, once: containerd, runc and the CNI plugins of the machine, and the
# Kubernetes programs of a node. Prints the folder of the latter.
#
#   e2e/pods/prepare.sh
#
# Where pods cannot run it says why in one line on stderr, prints nothing on stdout and ends well: tests that need such a
# node are skipped then.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "pods: $*" >&2; }
skip() {
	say "skipped: $*; tests with real pods do not run here"
	exit 0
}

[ "$(uname -s)" = Linux ] || skip "containers need Linux"
[ "$(id -u)" = 0 ] || skip "containers need root"

plugins=/usr/lib/cni
missing_packages() {
	local pair
	for pair in containerd:containerd runc:runc ip:iproute2 nsenter:util-linux openssl:openssl nft:nftables; do
		command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
	done
	[ -x "$plugins/bridge" ] || echo containernetworking-plugins
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/phoenix
mkdir -p "$cache"
exec 8>"$cache/pods.lock"
flock 8
packages=$(missing_packages | tr '\n' ' ')
if [ -n "$packages" ]; then
	command -v apt-get >/dev/null || skip "not installed and no apt-get to install it with: $packages"
	say "installing $packages"
	# Nothing that comes with them is to be started on this machine.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 0755 "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	# shellcheck disable=SC2086 # a list of words
	{
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages
	} >"$cache/pods.log" 2>&1 || skip "cannot install packages (see $cache/pods.log)"
	packages=$(missing_packages | tr '\n' ' ')
	[ -z "$packages" ] || skip "still not there: $packages"
fi
unshare --fork --pid --mount-proc --net --mount --uts --ipc true 2>/dev/null || skip "namespaces cannot be made"
"$here/../build-kube.sh" --node
