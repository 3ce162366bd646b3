#!/bin/sh
# The simulator's guest hook (docs/simulator.md): keeps a real LXC container behind each container of the simulator.
#
#   NODE=FOLDER hook.sh PHASE VMID [ARGUMENT...] <CONFIG
#
# A container is an overlay: a cached root file system below, and its own folder `upper` above. It has a network of its
# own with nothing but a loopback, on which port 3128 leads to the node's proxy: what is installed comes through that.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/node/common.sh
. "$here/common.sh"
: "${NODE:?is the folder of the node}"
export NODE

phase=$1 vmid=$2
name=$(container "$vmid")
home=$NODE/lxc/$name

# Calls for one container do not overlap.
mkdir -p "$NODE/lxc"
exec 9>"$NODE/lxc/.$vmid.lock"
flock 9

# The root file system that an archive stands for.
release_of() {
	case "$1" in
	*debian-13* | *trixie*) echo trixie ;;
	*) echo bookworm ;;
	esac
}

create() { # archive
	rm -rf "$home"
	mkdir -p "$home/upper" "$home/docker"
	echo "$CACHE/$(release_of "$1")" >"$home/base"
}

# Containers that were there before the node was get a system when they are first touched.
ensure() {
	[ -d "$home/upper" ] || create "$(sed -n 's/^ostype: *//p' "$1")"
}

clone() { # source, snapshot
	from=$NODE/lxc/$(container "$1")
	[ -d "$from/upper" ] || die "there is no container $1 to clone"
	part=$from
	[ -z "${2:-}" ] || part=$from/snapshots/$2
	rm -rf "$home"
	mkdir -p "$home"
	cp -a --reflink=auto "$part/upper" "$part/docker" "$home/"
	cp "$from/base" "$home/base"
	rm -f "$home/upper/etc/machine-id"
}

# The container's configuration for LXC, from the simulator's.
configure() { # file with the simulator's configuration
	cat <<-END
		lxc.include = /usr/share/lxc/config/common.conf
		lxc.rootfs.path = overlay:$(cat "$home/base"):$home/upper
		lxc.uts.name = ${hostname:-CT$vmid}
		lxc.apparmor.profile = unconfined
		lxc.init.cmd = /sbin/init
		lxc.signal.halt = SIGRTMIN+3
		lxc.net.0.type = empty
		lxc.hook.start-host = $here/relay.sh
		lxc.environment = container=lxc
		# What runc wants to allow must be allowed to the guest; the second hierarchy of cgroups has no such check.
		lxc.cgroup.devices.allow = c 10:200 rwm
		# Docker's own overlay cannot lie on this one.
		lxc.mount.entry = $home/docker var/lib/docker none bind,create=dir 0 0
	END
	case "$(sed -n 's/^features: *//p' "$1" | head -n 1)" in
	*nesting=1*) echo "lxc.include = /usr/share/lxc/config/nesting.conf" ;;
	esac
	# Mount points keep their data by volume, whoever uses it.
	sed -n '/^\[/q; s/^mp[0-9]*: *//p' "$1" | while IFS= read -r mount; do
		path=$(printf '%s\n' "$mount" | tr , '\n' | sed -n 's/^mp=//p')
		volume=$(printf '%s' "${mount%%,*}" | tr '/:' '__')
		mkdir -p "$NODE/volumes/$volume"
		echo "lxc.mount.entry = $NODE/volumes/$volume ${path#/} none bind,create=dir 0 0"
	done
}

# The container lies on the disk of the machine, and df in it would tell how full that is. It tells of a volume of the
# size that rootfs has.
room() {
	size=$(sed -n '/^\[/q; s/^rootfs: *//p' "$home/simulated" | tr , '\n' | sed -n 's/^size=\([0-9]*\)G$/\1/p')
	mkdir -p "$home/upper/usr/local/bin"
	cat >"$home/upper/usr/local/bin/df" <<-END
		#!/bin/sh
		[ "\$*" = "-Pk /opt" ] || exec /usr/bin/df "\$@"
		size=$((${size:-0} * 1048576))
		used=\$(du -skx /opt | cut -f 1)
		echo "Filesystem 1024-blocks Used Available Capacity Mounted on"
		echo "rootfs \$size \$used \$((size - used)) - /"
	END
	chmod 0755 "$home/upper/usr/local/bin/df"
}

start() {
	running "$vmid" && return
	cat >"$home/simulated"
	hostname=$(sed -n '/^\[/q; s/^hostname: *//p' "$home/simulated")
	configure "$home/simulated" >"$home/config"
	mkdir -p "$home/rootfs" "$home/upper/etc"
	# Proxmox writes these before each start.
	echo "${hostname:-CT$vmid}" >"$home/upper/etc/hostname"
	printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "${hostname:-CT$vmid}" >"$home/upper/etc/hosts"
	room
	rm -f "$home/log"
	# The first line of its log says why, the others that it failed.
	lxc-start -P "$NODE/lxc" -n "$name" -o "$home/log" -l ERROR >/dev/null 2>&1 9>&- ||
		die "lxc-start: $(sed -n '1s/^.*ERROR *//p' "$home/log" 2>/dev/null)"
}

stop() { # --kill or a timeout
	if running "$vmid"; then lxc-stop -P "$NODE/lxc" -n "$name" "$@" 9>&-; fi
	kill_recorded "$home/relay.pid" socat
}

snapshot() {
	mkdir -p "$home/snapshots"
	rm -rf "$home/snapshots/.new"
	mkdir "$home/snapshots/.new"
	cp -a --reflink=auto "$home/upper" "$home/docker" "$home/snapshots/.new/"
	rm -rf "${home:?}/snapshots/$1"
	mv "$home/snapshots/.new" "$home/snapshots/$1"
}

rollback() {
	[ -d "$home/snapshots/$1" ] || die "container $vmid has no snapshot $1"
	rm -rf "$home/upper" "$home/docker"
	cp -a --reflink=auto "$home/snapshots/$1/upper" "$home/snapshots/$1/docker" "$home/"
}

case "$phase" in
create) create "${3:-}" ;;
clone) clone "$3" "${4:-}" ;;
start)
	mkdir -p "$home"
	cat >"$home/.given"
	ensure "$home/.given"
	start <"$home/.given"
	;;
stop) stop --kill ;;
shutdown) stop --timeout 30 ;;
snapshot) snapshot "$3" ;;
delete-snapshot) rm -rf "${home:?}/snapshots/${3:?}" ;;
rollback) rollback "$3" ;;
destroy)
	stop --kill
	rm -rf "$home"
	;;
*) die "phase $phase is not known" ;;
esac
