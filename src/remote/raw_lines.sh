# Edits raw lxc.* lines of one container's config. Proxmox has no call for it (facts D.6), so this does what Proxmox's
# own writers do: under its lock file, only if the file is still the one that was decided on, and by a rename.
# Everything is in a function that the last line calls, so a script that arrives cut short does nothing.
set -u
umask 077
LC_ALL=C
export LC_ALL

phoenix_raw_lines() {
    phoenix_lock=$PHOENIX_LOCKS/pve-config-$PHOENIX_VMID.lock
    phoenix_conf=$PHOENIX_CONFIGS/$PHOENIX_VMID.conf
    exec 9>>"$phoenix_lock" || return 14
    flock -w 10 9 || return 13
    [ -f "$phoenix_conf" ] || return 12
    phoenix_digest=$(sha1sum <"$phoenix_conf") && phoenix_digest=${phoenix_digest%% *} || return 14
    if [ "$phoenix_digest" != "$PHOENIX_DIGEST" ]; then
        printf 'digest=%s\n' "$phoenix_digest"
        return 11
    fi
    phoenix_held=$(sed -n -e '/^\[/q' -e 's/^lock:[[:space:]]*//p' "$phoenix_conf")
    if [ -n "$phoenix_held" ]; then
        printf 'lock=%s\n' "$phoenix_held"
        return 10
    fi
    phoenix_work=$(mktemp -d) || return 14
    trap 'rm -rf "$phoenix_work"' EXIT
    phoenix_lists || return 14
    # Lines are compared as key and value, whichever of the two separators the file uses.
    awk -v adds="$phoenix_work/add" -v removes="$phoenix_work/remove" '
        function canonical(line,    at) {
            if (line !~ /^lxc\.[a-z0-9_.-]+[ \t]*[:=]/) return ""
            match(line, /[ \t]*[:=][ \t]*/)
            at = substr(line, RSTART + RLENGTH)
            sub(/[ \t\r]+$/, "", at)
            return substr(line, 1, RSTART - 1) ": " at
        }
        function flush_adds(    i) {
            for (i = 1; i <= wanted; i++) if (!(add[i] in present)) { print add[i]; present[add[i]] = 1 }
            for (i = 1; i <= blanks; i++) print ""
            blanks = 0
        }
        BEGIN {
            while ((getline line < adds) > 0) if (line != "") add[++wanted] = line
            while ((getline line < removes) > 0) if (line != "") drop[line] = 1
        }
        section { print; next }
        /^\[/ { flush_adds(); section = 1; print; next }
        /^[ \t\r]*$/ { blanks++; next }
        {
            for (; blanks > 0; blanks--) print ""
            name = canonical($0)
            if (name != "" && (name in drop)) next
            if (name != "") present[name] = 1
            print
        }
        END { if (!section) flush_adds() }
    ' "$phoenix_conf" >"$phoenix_work/new" || return 14
    if cmp -s "$phoenix_work/new" "$phoenix_conf"; then
        printf 'changed=0\n'
    else
        cat "$phoenix_work/new" >"$phoenix_conf.tmp.$$" && mv -f "$phoenix_conf.tmp.$$" "$phoenix_conf" || {
            rm -f "$phoenix_conf.tmp.$$"
            return 14
        }
        printf 'changed=1\n'
    fi
    phoenix_digest=$(sha1sum <"$phoenix_conf") || return 14
    printf 'digest=%s\n' "${phoenix_digest%% *}"
}
