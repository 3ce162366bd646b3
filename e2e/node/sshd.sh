#!/bin/sh
# Starts and stops the sshd of a test node.
#
#   sshd.sh start|stop|cut FOLDER      cut: also ends the connections that it serves
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/node/common.sh
. "$here/common.sh"
NODE=$(cd "$2" && pwd)

case "$1" in
start)
	# sshd wants to be called by its whole path, and goes to the background once it listens.
	/usr/sbin/sshd -f "$NODE/sshd_config" -E "$NODE/sshd.log"
	tries=0
	until [ -s "$NODE/sshd.pid" ]; do
		tries=$((tries + 1))
		[ "$tries" -lt 1200 ] || die "sshd does not start: $(tail -n 1 "$NODE/sshd.log")"
		sleep 0.1
	done
	;;
stop | cut)
	pid=$(cat "$NODE/sshd.pid" 2>/dev/null) || exit 0
	children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
	[ "$1" = cut ] || kill_recorded "$NODE/sshd.pid" "$NODE/sshd_config"
	# Processes of connections: they name no configuration, but their parent was this sshd.
	for child in $children; do kill "$child" 2>/dev/null || true; done
	;;
*) die "start, stop or cut" ;;
esac
