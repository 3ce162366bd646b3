#!/bin/sh
# LXC's hook on each start of a container, also when it restarts by itself: port 3128 of the container's loopback leads
# to the node's proxy. The container sees no other way out.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/node/common.sh
. "$here/common.sh"
home=$(dirname "$LXC_CONFIG_FILE")

kill_recorded "$home/relay.pid" socat
nsenter --target "$LXC_PID" --net ip link set lo up
nsenter --target "$LXC_PID" --net setsid socat TCP4-LISTEN:3128,bind=127.0.0.1,fork,reuseaddr \
	"UNIX-CONNECT:$NODE/proxy.sock" </dev/null >/dev/null 2>&1 &
echo $! >"$home/relay.pid"
