# What follows runs on a node as root, in any POSIX shell: probes of several guests over one channel, a few at a time.
# Everything is in functions and the last line starts it, so a program that arrives cut short does nothing.
set -u
umask 077
PATH=${PATH:-/usr/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

# pct exec loads all of Proxmox's Perl to become lxc-attach; on a node with many guests that would be most of the work.
if command -v lxc-attach >/dev/null 2>&1; then phoenix_attach='lxc-attach -n'; else phoenix_attach='pct exec'; fi

# As many lines in a pipe as probes may run at a time: who begins takes one, who ends puts it back.
phoenix_places() {
    phoenix_folder=$(mktemp -d /run/phoenix-probes.XXXXXX) || exit 3
    mkfifo "$phoenix_folder/places" || exit 3
    exec 3<>"$phoenix_folder/places"
    rm -rf "$phoenix_folder"
    phoenix_place=0
    while [ "$phoenix_place" -lt "$PHOENIX_AT_A_TIME" ]; do
        echo >&3
        phoenix_place=$((phoenix_place + 1))
    done
}

# ask NUMBER VMID SECONDS SETTINGS CALL: pipes the runner into the guest and prints one line when it has answered. The
# line is shorter than a pipe takes at once, so lines of several probes do not mix. A guest that does not let anybody in
# is given up a little after the probe's own deadline.
phoenix_ask() {
    read -r phoenix_place <&3
    {
        phoenix_answer=$({
            printf '%s\n%s\n%s\n' "$4" "$phoenix_runner" "$5" |
                timeout -k 2 "$(($3 + 5))" $phoenix_attach "$2" -- /bin/sh -s 3<&-
            printf '\ncode=%s\n' "$?"
        } 2>&1 | tail -c 2000 | base64 -w 0)
        printf 'probe=%s answer=%s\n' "$1" "$phoenix_answer"
        echo >&3
    } &
}
