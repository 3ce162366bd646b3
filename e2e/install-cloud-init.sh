#!/bin/sh
# Makes Debian's cloud-init available to the tests that ask it, without installing it: on a machine that has it
# installed it would take the next boot for a first one. The packages are unpacked in a cache folder. Prints the folder
# that Python finds it in.
#
#   e2e/install-cloud-init.sh
#
# Where it cannot be had, a line on stderr says why, nothing is printed, and the script ends well: the tests are skipped
# then. Nothing is written outside of the cache, and no rights are needed as long as apt's lists are there.
set -eu

say() { echo "cloud-init: $*" >&2; }
skip() {
	say "skipped: $*; nothing is checked against the real cloud-init"
	exit 0
}

command -v apt-get >/dev/null 2>&1 || skip "no apt-get to get the package with"
command -v dpkg-deb >/dev/null 2>&1 || skip "no dpkg-deb to unpack the package with"
command -v python3 >/dev/null 2>&1 || skip "no python3"

version() { apt-cache policy cloud-init 2>/dev/null | sed -n 's/^ *Candidate: *//p' | grep -v '(none)' || true; }
if [ -z "$(version)" ] && [ "$(id -u)" = 0 ]; then
	apt-get update -qq >/dev/null 2>&1 || true
fi
version=$(version)
[ -n "$version" ] || skip "apt knows no package cloud-init"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/phoenix/cloud-init-$(printf %s "$version" | tr -c 'A-Za-z0-9.+' _)
modules=$cache/usr/lib/python3/dist-packages
works() { PYTHONPATH=$modules python3 -c 'import cloudinit.cmd.main, jsonschema' 2>/dev/null; }

mkdir -p "$(dirname "$cache")"
# One at a time; a second one then finds it there.
if command -v flock >/dev/null 2>&1; then
	exec 9>"$cache.lock"
	flock 9
fi
if ! works; then
	say "fetching $version (once)"
	part=$cache.part
	rm -rf "$part" "$cache"
	mkdir -p "$part/packages" "$part/root"
	# With the Python modules that it needs; the rest of what it depends on is only for a machine that boots with it.
	packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
		--no-enhances cloud-init | sed -n 's/^\(python3-[a-z0-9.+-]*\|cloud-init\)$/\1/p' | sort -u)
	# shellcheck disable=SC2086 # a list of words
	(cd "$part/packages" && apt-get download -qq $packages) >"$cache.log" 2>&1 ||
		skip "apt-get cannot download it (see $cache.log)"
	for package in "$part"/packages/*.deb; do
		dpkg-deb -x "$package" "$part/root"
	done
	mv "$part/root" "$cache"
	rm -rf "$part"
	works || skip "version $version does not run with this machine's python3"
fi
echo "$modules"
