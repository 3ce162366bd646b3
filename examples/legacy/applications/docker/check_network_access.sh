#!/bin/sh
# Is there a default route, and does its gateway answer? (No host on the Internet is asked.)
set -eu
gateway=$(ip -4 route show default | awk '{ print $3; exit }')
[ -n "$gateway" ] || { echo "no default route" >&2; exit 1; }
# A gateway may ignore pings; an entry in the neighbour table shows that it is there all the same.
ping -c 1 -W 2 "$gateway" > /dev/null 2>&1 || true
ip neigh show "$gateway" | grep -qE 'lladdr' || { echo "the gateway $gateway does not answer" >&2; exit 1; }
echo "the gateway $gateway answers"
