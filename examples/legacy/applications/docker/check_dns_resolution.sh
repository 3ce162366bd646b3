#!/bin/sh
# Does a name resolve? Argument 2: the name; by default the first host of the package sources, which must resolve anyway.
set -eu
name=${2:-}
if [ -z "$name" ]; then
    name=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | grep -oE 'https?://[^/ ]+' | head -n 1 | sed 's,.*://,,')
fi
[ -n "$name" ] || { echo "no name to look up" >&2; exit 1; }
getent hosts "$name" > /dev/null || { echo "$name does not resolve; nameservers: $(awk '/^nameserver/ { print $2 }' /etc/resolv.conf | tr '\n' ' ')" >&2; exit 1; }
echo "$name resolves"
