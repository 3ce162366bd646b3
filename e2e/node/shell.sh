#!/bin/sh
# What sshd runs on a test node for every command: what is inside containers is done for real, everything else (the
# node's own files, configurations, GPUs) is the simulator's, over its SSH server.
#
#   shell.sh FOLDER      with the command in SSH_ORIGINAL_COMMAND
set -eu

here=$(cd "$(dirname "$0")" && pwd)
NODE=$1
export NODE
PATH=$here/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# A test asks for the connection to be cut once the next command in a container has had its effect.
if [ -e "$NODE/lose-answer" ]; then
	case "${SSH_ORIGINAL_COMMAND:-}" in
	'pct exec '*)
		if rm "$NODE/lose-answer" 2>/dev/null; then
			/bin/sh -c "exec $SSH_ORIGINAL_COMMAND" >"$NODE/lost-answer" 2>&1 || true
			kill -9 "$PPID"
			exit 1
		fi
		;;
	esac
fi

# Everything that is not for here.
simulator() {
	exec ssh -F none -i "$NODE/simulator/key" -p "$(cat "$NODE/simulator/port")" -o BatchMode=yes -o LogLevel=ERROR \
		-o UserKnownHostsFile="$NODE/simulator/known_hosts" -o GlobalKnownHostsFile=/dev/null \
		root@127.0.0.1 -- "$SSH_ORIGINAL_COMMAND"
}

case "${SSH_ORIGINAL_COMMAND:-}" in
'pct exec '* | 'pct push '* | 'pct pull '* | 'pct status '*) exec /bin/sh -c "exec $SSH_ORIGINAL_COMMAND" ;;
'/bin/sh -s')
	# A program for the node; its first line says which. The shell reads no further than that line.
	IFS= read -r first
	case "$first" in
	'# phoenix-node: probes') exec /bin/sh -s ;;
	*) { printf '%s\n' "$first" && cat; } | simulator ;;
	esac
	;;
'')
	echo "this node runs commands only" >&2
	exit 1
	;;
*) simulator ;;
esac
