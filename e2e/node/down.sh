#!/bin/sh
# Stops a node for tests: containers, sshd and proxy, and removes what its containers wrote.
#
#   down.sh FOLDER
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/node/common.sh
. "$here/common.sh"
[ -f "$1/id" ] || exit 0
NODE=$(cd "$1" && pwd)
export NODE

prefix=phx-$(cat "$NODE/id")-
for home in "$NODE/lxc/$prefix"*; do
	[ -d "$home" ] || continue
	: | "$here/hook.sh" destroy "${home##*"$prefix"}" || true
done
"$here/sshd.sh" stop "$NODE"
kill_recorded "$NODE/proxy.pid" proxy.py
rm -f "$CACHE/nodes/$(cat "$NODE/id")"
rm -rf "$NODE/lxc" "$NODE/volumes" "$NODE/id"
