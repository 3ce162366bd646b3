#!/bin/sh
# Makes everything that a node for tests needs, once: packages of the machine, root file systems of Debian 12 and 13,
# Python wheels. What is there already is left alone. Prints the cache folder.
#
#   e2e/node/prepare.sh
#
# Where containers cannot run it says why in one line on stderr, prints nothing on stdout and ends well: tests that
# need a node are skipped then. The first run takes some five minutes; the packages come from the machine's own mirror
# settings.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=e2e/node/common.sh
. "$here/common.sh"

skip() {
	say "skipped: $*; tests in real containers do not run here"
	exit 0
}

[ "$(uname -s)" = Linux ] || skip "containers need Linux"
[ "$(id -u)" = 0 ] || skip "containers need root"
[ "$(uname -m)" = x86_64 ] || skip "the stand-ins are made for x86_64"

mkdir -p "$CACHE"
# One preparation at a time; a second one then finds everything there.
exec 9>"$CACHE/.lock"
command -v flock >/dev/null 2>&1 && flock 9

# tools: what the scripts call, and the packages that bring it.
missing_packages() {
	for pair in lxc-start:lxc debootstrap:debootstrap /usr/sbin/sshd:openssh-server ssh:openssh-client socat:socat \
		python3:python3 ip:iproute2 nsenter:util-linux zstd:zstd; do
		command -v "${pair%%:*}" >/dev/null 2>&1 || echo "${pair#*:}"
	done
}

install_packages() {
	packages=$(missing_packages)
	[ -n "$packages" ] || return 0
	command -v apt-get >/dev/null 2>&1 || skip "not installed and no apt-get to install it with: $(echo "$packages" | tr '\n' ' ')"
	say "installing $(echo "$packages" | tr '\n' ' ')"
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
	} >"$CACHE/packages.log" 2>&1 || skip "cannot install packages (see $CACHE/packages.log)"
	packages=$(missing_packages)
	[ -z "$packages" ] || skip "still not there: $(echo "$packages" | tr '\n' ' ')"
}

# rootfs RELEASE: a small Debian with systemd, built under another name first.
rootfs() {
	[ -d "$CACHE/$1" ] && return
	say "building a root file system of Debian $1 (once)"
	rm -rf "$CACHE/.$1"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,iproute2 "$1" "$CACHE/.$1" \
		>"$CACHE/$1.log" 2>&1 || {
		rm -rf "$CACHE/.$1"
		die "debootstrap of $1 failed: $(tail -n 1 "$CACHE/$1.log") (see $CACHE/$1.log)"
	}
	root=$CACHE/.$1
	# Tests unpack much and keep nothing: no documentation, no waiting for the disk.
	printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
		'path-exclude=/usr/share/locale/*' >"$root/etc/dpkg/dpkg.cfg.d/test-node"
	rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
	: >"$root/etc/machine-id"
	: >"$root/etc/resolv.conf"
	mv "$root" "$CACHE/$1"
}

# wheels RELEASE: what pip installs in tests, for the Python of that release. pip itself chooses them.
wheels() {
	wanted='fastapi==0.115.12 uvicorn==0.34.2 setuptools==80.9.0'
	[ "$(cat "$CACHE/wheels-$1/.wanted" 2>/dev/null)" = "$wanted" ] && return
	say "fetching Python wheels for Debian $1 (once)"
	python=3.11
	[ "$1" = bookworm ] || python=3.13
	rm -rf "$CACHE/wheels-$1"
	mkdir -p "$CACHE/wheels-$1"
	[ -x "$CACHE/pip/bin/pip" ] || python3 -m venv "$CACHE/pip" >/dev/null 2>&1 || {
		rm -rf "$CACHE/pip"
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >"$CACHE/packages.log" 2>&1
		python3 -m venv "$CACHE/pip"
	}
	# shellcheck disable=SC2086 # a list of words
	"$CACHE/pip/bin/pip" download --quiet --only-binary :all: --python-version "$python" --implementation cp \
		--platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --dest "$CACHE/wheels-$1" $wanted ||
		die "pip cannot fetch $wanted"
	printf '%s\n' "$wanted" >"$CACHE/wheels-$1/.wanted"
}

# try_container RELEASE: whether a container of it starts here at all.
try_container() {
	NODE=$(mktemp -d "${TMPDIR:-/tmp}/phoenix-try.XXXXXX")
	export NODE
	echo "try$$" >"$NODE/id"
	mkdir "$NODE/lxc"
	: | "$here/hook.sh" create 1 "$1"
	: | "$here/hook.sh" start 1 2>"$NODE/why" || {
		why=$(tail -n 1 "$NODE/why")
		: | "$here/hook.sh" destroy 1 2>/dev/null || true
		rm -rf "$NODE"
		skip "containers of Debian $1 do not start on this machine ($why)"
	}
	"$here/bin/pct" exec 1 -- true || {
		: | "$here/hook.sh" destroy 1 2>/dev/null || true
		rm -rf "$NODE"
		skip "commands cannot be run in containers on this machine"
	}
	: | "$here/hook.sh" destroy 1
	rm -rf "$NODE"
}

install_packages
for release in bookworm trixie; do
	rootfs "$release"
	wheels "$release"
	try_container "$release"
done
"$here/reap.sh"
echo "$CACHE"
