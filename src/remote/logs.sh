# What scripts and units said, for people: sent behind runner.sh.

# What the last run of a script said: its start, and of what came after byte PHOENIX_FROM of the run PHOENIX_FROM_RUN the
# last PHOENIX_MOST bytes. While the script runs its output is in memory. What is kept of it afterwards may have lost its
# middle; the record has the size of the whole then.
phoenix_said() {
    phoenix_record=$(phoenix_last '*')
    [ -n "$phoenix_record" ] || {
        printf 'state=absent\n'
        return
    }
    phoenix_run=${phoenix_record##*/run.}
    # A file that is open stays readable when the run ends meanwhile.
    { command exec 3<"$PHOENIX_SPOOL/$phoenix_run/output" ||
        command exec 3<"$PHOENIX_RECORDS/output.$phoenix_run"; } 2>/dev/null || {
        printf 'state=gone\n'
        return
    }
    phoenix_kept=$(wc -c </proc/self/fd/3)
    phoenix_size=$(phoenix_value size "$phoenix_record")
    phoenix_size=${phoenix_size:-$phoenix_kept}
    [ "$PHOENIX_FROM_RUN" = "$phoenix_run" ] || PHOENIX_FROM=0
    phoenix_new=$((phoenix_size - PHOENIX_FROM))
    [ "$phoenix_size" -eq "$phoenix_kept" ] || phoenix_kept_end=$((phoenix_kept - PHOENIX_HEAD))
    for phoenix_limit in "$PHOENIX_MOST" "${phoenix_kept_end:-$phoenix_kept}"; do
        [ "$phoenix_new" -le "$phoenix_limit" ] || phoenix_new=$phoenix_limit
    done
    printf 'state=present\nrun=%s\noutput-size=%s\n' "$phoenix_run" "$phoenix_size"
    printf 'output-head=%s\n' "$(head -c "$PHOENIX_HEAD" /proc/self/fd/3 | base64 | tr -d '\n')"
    printf 'output-tail=%s\n' "$(head -c "$phoenix_kept" /proc/self/fd/3 | tail -c "$phoenix_new" | base64 | tr -d '\n')"
}

# The journal of a unit: its last lines, or what came after a cursor; the new cursor is its last line.
phoenix_journal() {
    command -v journalctl >/dev/null 2>&1 || phoenix_fail 'it has no systemd journal'
    if [ -n "$PHOENIX_CURSOR" ]; then
        set -- --after-cursor "$PHOENIX_CURSOR"
    else
        set -- --lines "$PHOENIX_LINES"
    fi
    printf 'state=present\noutput-tail=%s\n' \
        "$(journalctl --unit "$PHOENIX_UNIT" --output cat --no-pager --quiet --show-cursor "$@" 2>/dev/null |
            tail -c "$PHOENIX_MOST" | base64 | tr -d '\n')"
}
