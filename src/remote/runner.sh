# What follows runs in the guest as root, in any POSIX shell. Everything is in functions and the last line calls one of
# them, so a script that arrives cut short does nothing.
set -u
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

phoenix_fail() {
    printf 'error=%s\n' "$1"
    exit 3
}

# put PATH MODE: writes standard input (base64) to PATH, whole or not at all.
phoenix_put() {
    (umask 022 && mkdir -p "${1%/*}/") || phoenix_fail "cannot make the folder of $1"
    base64 -d >"$1.phoenix.$$" && chmod "$2" "$1.phoenix.$$" && mv -f "$1.phoenix.$$" "$1" && return
    rm -f "$1.phoenix.$$"
    phoenix_fail "cannot write $1"
}

# value KEY FILE: the value of KEY in a record.
phoenix_value() {
    sed -n "s/^$1=//p" "$2" 2>/dev/null | head -n 1
}

# The last run of the hash (or of any, for `*`) in PHOENIX_RECORDS: its record's path, or nothing.
phoenix_last() {
    phoenix_best= phoenix_most=0
    for phoenix_file in "$PHOENIX_RECORDS"/run.*; do
        [ -f "$phoenix_file" ] || continue
        phoenix_hash=${phoenix_file##*/run.}
        phoenix_number=${phoenix_hash##*.}
        case "$phoenix_number" in '' | *[!0-9]*) continue ;; esac
        [ "$1" = '*' ] || [ "$1" = "${phoenix_hash%.*}" ] || continue
        if [ "$phoenix_number" -gt "$phoenix_most" ]; then
            phoenix_most=$phoenix_number phoenix_best=$phoenix_file
        fi
    done
    printf %s "$phoenix_best"
}

# Whether a run belongs to the present start of the guest: 1 or 0, or nothing where that is not known.
phoenix_present() {
    phoenix_then=$(phoenix_value boot "$1") phoenix_now=$(phoenix_boot)
    [ -n "$phoenix_then" ] && [ -n "$phoenix_now" ] || return 0
    if [ "$phoenix_then" = "$phoenix_now" ]; then printf 1; else printf 0; fi
}

# Whether the process of an unfinished record still runs. After a restart another process may have its number, and in a
# machine, whose boots resemble each other, even its start time.
phoenix_alive() {
    [ -z "$(phoenix_value exit "$1")" ] && [ "$(phoenix_present "$1")" != 0 ] || return 1
    phoenix_pid=$(phoenix_value pid "$1")
    [ -n "$phoenix_pid" ] && [ "$(phoenix_born "$phoenix_pid")" = "$(phoenix_value born "$1")" ]
}

# The record of some run that is under way, or nothing.
phoenix_busy() {
    for phoenix_file in "$PHOENIX_RECORDS"/run.*; do
        [ -f "$phoenix_file" ] && phoenix_alive "$phoenix_file" && printf %s "$phoenix_file" && return
    done
}

# report RECORD: prints state and output of a run as key=value lines.
phoenix_report() {
    if [ -z "$1" ]; then
        printf 'state=absent\n'
        return
    fi
    phoenix_run=${1##*/run.}
    # Whether it lives is asked before the record is read: it may end between the two.
    phoenix_state=interrupted
    phoenix_alive "$1" && phoenix_state=running
    [ -n "$(phoenix_value exit "$1")" ] && phoenix_state=finished
    printf 'state=%s\nhash=%s\nattempt=%s\n' "$phoenix_state" "${phoenix_run%.*}" "${phoenix_run##*.}"
    sed -n -e '/^pid=/p' -e '/^started=/p' -e '/^ended=/p' -e '/^cancelled=/p' -e '/^exit=/p' "$1"
    [ ! -e "$PHOENIX_SPOOL/$phoenix_run/cancel" ] || printf 'cancelled=1\n'
    phoenix_here=$(phoenix_present "$1")
    if [ -n "$phoenix_here" ]; then
        printf 'this-start=%s\ntries=%s\n' "$phoenix_here" \
            "$(grep -lFx "boot=$(phoenix_value boot "$1")" "${1%.*}".* | wc -l)"
    fi
    # A file that is open stays readable, so it does not matter if the run ends between two lines of this.
    { phoenix_output "$1" 3<"$PHOENIX_SPOOL/$phoenix_run/output"; } 2>/dev/null ||
        { phoenix_output "$1" 3<"$PHOENIX_RECORDS/output.$phoenix_run"; } 2>/dev/null
    return 0
}

# output RECORD: start, size and end of the output that is open as file 3. What is kept of a run that ended may have
# lost its middle; its record has the size of the whole.
phoenix_output() {
    phoenix_size=$(phoenix_value size "$1")
    printf 'output-head=%s\n' "$(head -c "$PHOENIX_HEAD" /proc/self/fd/3 | base64 | tr -d '\n')"
    printf 'output-size=%s\n' "${phoenix_size:-$(wc -c </proc/self/fd/3)}"
    printf 'output-tail=%s\n' "$(tail -c "$PHOENIX_TAIL" /proc/self/fd/3 | base64 | tr -d '\n')"
}

# Starts the run unless one is under way or this one was started before.
phoenix_start() {
    mkdir -p "$PHOENIX_RECORDS" "$PHOENIX_SPOOL" || phoenix_fail "cannot make $PHOENIX_RECORDS"
    phoenix_known=$(phoenix_last "$PHOENIX_HASH")
    if [ -n "$phoenix_known" ] && [ "${phoenix_known##*.}" -ge "$PHOENIX_ATTEMPT" ]; then
        printf 'started-now=0\n'
        phoenix_report "$phoenix_known"
        return
    fi
    phoenix_other=$(phoenix_busy)
    if [ -n "$phoenix_other" ]; then
        printf 'started-now=0\nbusy=1\n'
        phoenix_report "$phoenix_other"
        return
    fi
    # A script whose record has no room must not run: nobody would know of it.
    phoenix_space=$PHOENIX_RECORDS/.space.$$
    head -c 4096 /dev/zero >"$phoenix_space" 2>/dev/null && [ "$(wc -c <"$phoenix_space")" -eq 4096 ] || {
        rm -f "$phoenix_space"
        phoenix_fail "no space left in $PHOENIX_RECORDS"
    }
    rm -f "$phoenix_space"
    phoenix_claim=$PHOENIX_RECORDS/run.$PHOENIX_HASH.$PHOENIX_ATTEMPT
    mkdir -p "$PHOENIX_SPOOL/$PHOENIX_HASH.$PHOENIX_ATTEMPT" || phoenix_fail "cannot make $PHOENIX_SPOOL"
    # Closed until the wrapper opens it to the user whose it is.
    [ -z "$PHOENIX_FOLDER" ] || mkdir -p "$PHOENIX_FOLDER" || phoenix_fail "cannot make $PHOENIX_FOLDER"
    phoenix_files
    phoenix_launch "$PHOENIX_SPOOL/$PHOENIX_HASH.$PHOENIX_ATTEMPT/wrapper" || phoenix_fail 'cannot start a process'
    phoenix_wait=0
    while [ ! -e "$phoenix_claim" ] && [ "$phoenix_wait" -lt 50 ]; do
        sleep 0.1 2>/dev/null || sleep 1
        phoenix_wait=$((phoenix_wait + 1))
    done
    if [ -e "$phoenix_claim" ]; then
        printf 'started-now=1\n'
        phoenix_report "$phoenix_claim"
    else
        printf 'started-now=1\nstate=starting\nhash=%s\nattempt=%s\n' "$PHOENIX_HASH" "$PHOENIX_ATTEMPT"
    fi
}

# Starts the wrapper so that it outlives this shell. systemd-run talks to systemd's own socket and needs no D-Bus; its
# unit may vanish with its result, which is why the wrapper keeps the record. KillMode lets daemons that the script
# starts live on. Started twice by mistake, only the first wrapper gets the claim.
phoenix_launch() {
    if [ "$PHOENIX_LAUNCHER" = auto ] && [ -d /run/systemd/system ] && command -v systemd-run >/dev/null 2>&1; then
        systemd-run --quiet --collect --unit="phoenix-$PHOENIX_ID-$$" -p KillMode=process -p TasksMax=infinity \
            env -i /bin/sh "$1" </dev/null >/dev/null 2>&1 && return
    fi
    if command -v setsid >/dev/null 2>&1; then
        setsid env -i /bin/sh "$1" </dev/null >/dev/null 2>&1 &
    else
        nohup env -i /bin/sh "$1" </dev/null >/dev/null 2>&1 &
    fi
}

phoenix_poll() {
    phoenix_report "$(phoenix_last "$PHOENIX_HASH")"
}

# Asks the run of the hash to end, if one is under way: the wrapper, which knows its own script, sees the file and stops
# it.
phoenix_cancel() {
    phoenix_known=$(phoenix_last "$PHOENIX_HASH")
    if [ -n "$phoenix_known" ] && phoenix_alive "$phoenix_known"; then
        : >"$PHOENIX_SPOOL/${phoenix_known##*/run.}/cancel" || phoenix_fail "cannot write to $PHOENIX_SPOOL"
    fi
    phoenix_report "$phoenix_known"
}

# Runs a short command with a deadline and prints its exit code and output.
phoenix_probe() {
    mkdir -p "$PHOENIX_SPOOL" || phoenix_fail "cannot make $PHOENIX_SPOOL"
    phoenix_output=$PHOENIX_SPOOL/probe.$$
    if timeout -k 1 5 true 2>/dev/null; then
        timeout -k 2 "$PHOENIX_SECONDS" "$@" </dev/null >"$phoenix_output" 2>&1
    else
        "$@" </dev/null >"$phoenix_output" 2>&1
    fi
    printf 'exit=%s\n' "$?"
    printf 'output-tail=%s\n' "$(tail -c "$PHOENIX_TAIL" "$phoenix_output" | base64 | tr -d '\n')"
    rm -f "$phoenix_output"
}
