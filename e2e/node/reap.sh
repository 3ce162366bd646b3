#!/bin/sh
# Stops the nodes whose owner has died without stopping them.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/node/common.sh
. "$here/common.sh"

for link in "$CACHE"/nodes/*; do
	[ -L "$link" ] || continue
	if [ ! -f "$link/owner" ]; then
		rm -f "$link"
	elif ! [ -d "/proc/$(cat "$link/owner")" ]; then
		say "stopping $(readlink "$link"), whose owner is gone"
		"$here/down.sh" "$(readlink "$link")"
	fi
done
