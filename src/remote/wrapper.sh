# Runs one script and keeps its record. The claim is a hard link, made once whoever else tries: that is what keeps a
# script from being run twice. A second wrapper that finds the claim taken goes away without a trace.
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root USER=root LOGNAME=root SHELL=/bin/sh LANG=C.UTF-8 TERM=dumb
export PATH HOME USER LOGNAME SHELL LANG TERM

# become WORD…: this shell becomes the script.
phoenix_become() {
    phoenix_env=$PWD/env.$$
    # The number of this very process: `$$` is the wrapper's.
    read -r phoenix_pid phoenix_rest </proc/self/stat
    printf '%s %s\n' "$phoenix_pid" "$(phoenix_born "$phoenix_pid")" >child
    umask 022
    if [ -n "$PHOENIX_USER" ]; then
        phoenix_entry=$(getent passwd "$PHOENIX_USER" 2>/dev/null || grep "^$PHOENIX_USER:" /etc/passwd) || {
            echo "there is no user $PHOENIX_USER in this guest: make it first, such as by a feature, or correct application.user"
            exit 126
        }
        # name:password:uid:gid:words:home:shell
        phoenix_rest=${phoenix_entry#*:*:} phoenix_uid=${phoenix_rest%%:*}
        phoenix_rest=${phoenix_rest#*:} phoenix_gid=${phoenix_rest%%:*}
        phoenix_rest=${phoenix_rest#*:*:} HOME=${phoenix_rest%%:*}
        USER=$PHOENIX_USER LOGNAME=$PHOENIX_USER
        # The user may read and not write here: the next run puts files here as root.
        chown "root:$phoenix_gid" "$PHOENIX_FOLDER" && chmod 0750 "$PHOENIX_FOLDER" || exit 126
        if setpriv --help 2>/dev/null | grep -q -e --init-groups; then
            set -- setpriv --reuid "$phoenix_uid" --regid "$phoenix_gid" --init-groups "$@"
        else
            set -- su -s /bin/sh "$PHOENIX_USER" -c 'exec "$@"' sh "$@"
        fi
    fi
    if [ -n "$PHOENIX_DEADLINE" ] && timeout -k 1 5 true 2>/dev/null; then
        set -- timeout -k 10 "$PHOENIX_DEADLINE" "$@"
    fi
    # A session of its own makes a group of all that the script starts, which can be told to end.
    ! command -v setsid >/dev/null || set -- setsid "$@"
    cd "$PHOENIX_WORKDIR" || {
        echo "cannot enter the working directory $PHOENIX_WORKDIR: make it first, or correct application.workingDirectory"
        exit 126
    }
    . "$phoenix_env"
    rm -f "$phoenix_env"
    # The wrapper waits for the script itself and not for a shell between.
    exec "$@"
}

phoenix_claim=$PHOENIX_RECORDS/run.$PHOENIX_RUN
phoenix_new=$PHOENIX_RECORDS/.new.$$
cd "$PHOENIX_SPOOL/$PHOENIX_RUN" || exit 1

# The environment is copied before the claim, because whoever loses the claim removes the first one. (A second link
# would not do: linking fails in the moment in which another start replaces the file.)
cat env >"env.$$" 2>/dev/null
phoenix_start=$(phoenix_boot)
printf 'pid=%s\nborn=%s\nboot=%s\nstarted=%s\n' "$$" "$(phoenix_born "$$")" "$phoenix_start" "$(date +%s)" >"$phoenix_new"
# Without its content the claim would say nothing: on a full disk the script does not run.
if ! [ -s "$phoenix_new" ] || ! ln "$phoenix_new" "$phoenix_claim" 2>/dev/null; then
    rm -f "$phoenix_new" env "env.$$"
    exit 0
fi
rm -f env "$phoenix_new"

# Runs of another version of the script, or before the guest's last start, say nothing about the guest any more, and the
# output of this run takes the place of what earlier ones said.
rm -f "$PHOENIX_RECORDS"/output.*
for phoenix_file in "$PHOENIX_RECORDS"/run.*; do
    phoenix_other=${phoenix_file##*/run.}
    [ "$phoenix_other" = "$PHOENIX_RUN" ] || rm -rf "${PHOENIX_SPOOL:?}/$phoenix_other"
    case "$phoenix_other" in "$PHOENIX_HASH".*) ;; *) rm -f "$phoenix_file" ;; esac
    [ -z "$phoenix_start" ] || grep -sqFx -e "boot=$phoenix_start" -e boot= "$phoenix_file" || rm -f "$phoenix_file"
done

# Keeps the spooled output, which lies in memory, near its bound: its start and its end stay, the middle is given back
# as a hole. The file keeps its length and the script goes on appending, so nothing that it writes meanwhile is lost.
phoenix_trim() {
    phoenix_size=$(wc -c <output) || return
    [ "$((phoenix_size - phoenix_from))" -gt "$PHOENIX_BOUND" ] || return 0
    phoenix_to=$(((phoenix_size - PHOENIX_REST) / phoenix_block * phoenix_block))
    fallocate --punch-hole --offset "$phoenix_from" --length "$((phoenix_to - phoenix_from))" output || return
    phoenix_from=$phoenix_to
}

# Asks the script's processes to end, and ends after ten seconds those that are left. Only a process that is still the
# one that was started is the script.
phoenix_stop() {
    read -r phoenix_pid phoenix_then <child && [ "$(phoenix_born "$phoenix_pid")" = "$phoenix_then" ] || return 1
    : >stopped
    kill -s TERM -- "-$phoenix_pid" || kill -s TERM "$phoenix_pid"
    phoenix_wait=0
    while kill -s 0 -- "-$phoenix_pid" && [ "$phoenix_wait" -lt 10 ]; do
        sleep 1
        phoenix_wait=$((phoenix_wait + 1))
    done
    kill -s KILL -- "-$phoenix_pid" || kill -s KILL "$phoenix_pid" || true
}

# Looks after the run while it lasts.
phoenix_watch() {
    phoenix_trims=yes
    while kill -s 0 "$$"; do
        sleep 2
        [ "$phoenix_trims" = no ] || phoenix_trim || phoenix_trims=no
        [ ! -e cancel ] || ! phoenix_stop || return
    done
}
: >output
phoenix_block=$(stat -f -c %S output)
phoenix_from=$(((PHOENIX_HEAD + phoenix_block - 1) / phoenix_block * phoenix_block))
phoenix_watch </dev/null >/dev/null 2>&1 &
phoenix_watcher=$!

phoenix_script >>output 2>&1 </dev/null
phoenix_code=$?
rm -f child
phoenix_cancelled=
if [ -e stopped ]; then
    # What it started may take a while to end.
    wait "$phoenix_watcher"
    phoenix_cancelled='cancelled=1
'
fi
# What a short script printed between two looks.
phoenix_trim >/dev/null 2>&1

# A script that filled the disk has run all the same: as long as its end cannot be recorded it counts as running, or it
# would be taken for cut off and be repeated.
phoenix_ended=$(date +%s)
phoenix_size=$(wc -c <output)
until {
    cat "$phoenix_claim" &&
        printf 'size=%s\nended=%s\n%sexit=%s\n' "$phoenix_size" "$phoenix_ended" "$phoenix_cancelled" "$phoenix_code"
} >"$phoenix_new" && grep -q '^exit=' "$phoenix_new" && mv -f "$phoenix_new" "$phoenix_claim"; do
    [ -d "$PHOENIX_RECORDS" ] || exit 1
    sleep 2
done
rm -f "env.$$" script wrapper cancel stopped

# What it said moves from memory to the disk, start and end of it, unless the guest becomes a template. It comes after
# the record, so that it takes no room from that; where there is none for it, it stays in memory until the next run.
[ "$PHOENIX_KEEP" = yes ] || exit 0
if [ "$phoenix_size" -le "$((PHOENIX_HEAD + PHOENIX_REST))" ]; then
    cat output
else
    head -c "$PHOENIX_HEAD" output && tail -c "$PHOENIX_REST" output
fi >"$phoenix_new" 2>/dev/null && mv -f "$phoenix_new" "$PHOENIX_RECORDS/output.$PHOENIX_RUN" && rm -f output
rm -f "$phoenix_new"
