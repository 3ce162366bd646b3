#!/bin/sh
# Starts a node for tests in an empty folder: keys, a real sshd on a free loopback port, and the proxy that is its
# containers' only way out. prepare.sh has to have run before.
#
#   up.sh FOLDER OWNER [FILES]     OWNER: process that the node belongs to; FILES: folder served at http://files.test/
#
# Afterwards FOLDER has `port`, `client_key`, `known_hosts`. Before commands about configurations work, the simulator's
# SSH server has to be told of in FOLDER/simulator: port, key, known_hosts. FOLDER/hook is the simulator's guest hook.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/node/common.sh
. "$here/common.sh"
NODE=$(cd "$1" && pwd)
export NODE
owner=$2 files=${3:-$NODE/files}

mkdir -p "$NODE/lxc" "$NODE/simulator" "$files" "$CACHE/nodes" /run/sshd
od -An -N4 -tx1 /dev/urandom | tr -d ' \n' >"$NODE/id"
echo "$owner" >"$NODE/owner"
ln -s "$NODE" "$CACHE/nodes/$(cat "$NODE/id")"

# systemd takes some inotify instances a container, all of them the same user's; without one it ends without a word.
instances=/proc/sys/fs/inotify/max_user_instances
[ "$(cat "$instances")" -ge 1024 ] || echo 1024 >"$instances" || say "cannot raise $instances to 1024"

[ -f "$NODE/host_key" ] || ssh-keygen -q -t ed25519 -N '' -C node -f "$NODE/host_key"
[ -f "$NODE/client_key" ] || ssh-keygen -q -t ed25519 -N '' -C phoenix -f "$NODE/client_key"
cp "$NODE/client_key.pub" "$NODE/authorized_keys"

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
[ -f "$NODE/port" ] || free_port >"$NODE/port"
port=$(cat "$NODE/port")
echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$NODE/host_key.pub")" >"$NODE/known_hosts"
cat >"$NODE/sshd_config" <<END
ListenAddress 127.0.0.1
Port $port
HostKey $NODE/host_key
PidFile $NODE/sshd.pid
AuthorizedKeysFile $NODE/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AllowTcpForwarding no
PermitUserEnvironment no
UseDNS no
ForceCommand $here/shell.sh $NODE
LogLevel VERBOSE
END
# The simulator calls this one.
printf '#!/bin/sh\nNODE=%s exec %s/hook.sh "$@"\n' "$NODE" "$here" >"$NODE/hook"
chmod 0755 "$NODE/hook"
"$here/sshd.sh" start "$NODE"

setsid python3 "$here/proxy.py" --socket "$NODE/proxy.sock" --cache "$CACHE/http" --files "$files" --log "$NODE/proxy.log" \
	</dev/null >"$NODE/proxy.err" 2>&1 &
echo $! >"$NODE/proxy.pid"
tries=0
until [ -S "$NODE/proxy.sock" ]; do
	tries=$((tries + 1))
	[ "$tries" -lt 1200 ] || die "the proxy does not start: $(tail -n 1 "$NODE/proxy.err")"
	sleep 0.1
done
