# shellcheck shell=bash
# The helper library that application scripts of the legacy managers source. Written anew by Phoenix; it lies beside
# the script as phoenix_hypervisor_common_utils.sh unless the object brings a file of that name.
#
#   log_debug, log_info, log_success, log_warn, log_error, log_fatal TEXT...     log_fatal ends the script
#   log_plain_output TEXT... (or standard input)     exit_script CODE
#   jq_get_value [CTID] PATH      a value of the container's block in phoenix_lxc_configs.json; fails where it is absent
#   jq_get_array [CTID] PATH      the elements of a list, a line each
#   jq_get_vm_value VMID PATH     the same in phoenix_vm_configs.json
#   get_global_config_value PATH  a value of phoenix_hypervisor_config.json
#   pct_exec, run_in_container [CTID] [--] COMMAND...
#   run_pct_command exec|push [CTID] ...     pct exec|push|status|config CTID ...
#   is_command_available [CTID] NAME         is_feature_present_on_container CTID FEATURE
#   retry_command TRIES COMMAND...
#
# The legacy managers ran such scripts in the container itself; a command "in the container" is therefore run here, and
# other containers cannot be reached.

PHOENIX_RUN_DIR=${PHOENIX_RUN_DIR:-/tmp/phoenix_run}
LXC_CONFIG_FILE=${LXC_CONFIG_FILE:-$PHOENIX_RUN_DIR/phoenix_lxc_configs.json}
VM_CONFIG_FILE=${VM_CONFIG_FILE:-$PHOENIX_RUN_DIR/phoenix_vm_configs.json}
HYPERVISOR_CONFIG_FILE=${HYPERVISOR_CONFIG_FILE:-$PHOENIX_RUN_DIR/phoenix_hypervisor_config.json}
export LXC_CONFIG_FILE VM_CONFIG_FILE HYPERVISOR_CONFIG_FILE
: "${CTID:=${1:-}}"
: "${PHOENIX_DEBUG:=false}"

# Messages go to standard error, so that functions whose output is used may log too, and to MAIN_LOG_FILE if that is set.
_phoenix_log() { # level, text...
    local level=$1 line
    shift
    line="$(date '+%Y-%m-%d %H:%M:%S') [$level] ${0##*/}: $*"
    printf '%s\n' "$line" >&2
    if [ -n "${MAIN_LOG_FILE:-}" ]; then
        printf '%s\n' "$line" >>"$MAIN_LOG_FILE" || true
    fi
}

log_debug() { if [ "$PHOENIX_DEBUG" = true ]; then _phoenix_log DEBUG "$@"; fi; }
log_info() { _phoenix_log INFO "$@"; }
log_success() { _phoenix_log SUCCESS "$@"; }
log_warn() { _phoenix_log WARN "$@"; }
log_warning() { log_warn "$@"; }
log_error() { _phoenix_log ERROR "$@"; }
log_fatal() {
    _phoenix_log FATAL "$@"
    exit 1
}

log_plain_output() {
    if [ $# -gt 0 ]; then
        printf '%s\n' "$*"
    else
        cat
    fi
}

exit_script() {
    local code=${1:-0}
    if [ "$code" -eq 0 ]; then
        log_info "script completed"
    else
        log_error "script failed with exit code $code"
    fi
    exit "$code"
}

# Reads PATH below the block of an id; a path may come without its first dot, and any filter of jq is one.
_phoenix_lookup() { # file, key of the blocks, id, path, filter of the result
    local file=$1 blocks=$2 id=$3 path=$4 result=$5
    if [ ! -f "$file" ]; then
        log_error "there is no $file: carry the legacy JSON files in application.files"
        return 1
    fi
    case "$path" in [A-Za-z_]*) path=".$path" ;; esac
    jq -er --arg blocks "$blocks" --arg id "$id" \
        "(if \$blocks == \"\" then . else .[\$blocks][\$id] end) | $path | $result" "$file"
}

# false is a value, null is none.
_PHOENIX_ONE='if . == null then empty elif type == "string" then . else tojson end'

jq_get_value() {
    [ $# -ge 2 ] || set -- "$CTID" "$1"
    local value
    value=$(_phoenix_lookup "$LXC_CONFIG_FILE" lxc_configs "$1" "$2" "$_PHOENIX_ONE") || return 1
    [ -n "$value" ] || return 1
    printf '%s\n' "$value"
}

jq_get_array() {
    [ $# -ge 2 ] || set -- "$CTID" "$1"
    _phoenix_lookup "$LXC_CONFIG_FILE" lxc_configs "$1" "$2" \
        'if type == "array" then .[] else empty end | if type == "string" then . else tojson end'
}

jq_get_vm_value() {
    [ -f "$VM_CONFIG_FILE" ] || return 1
    # Machines are a list in some files and an object in others.
    jq -er --arg id "$1" "((.vms // .vm_configs // {}) | if type == \"array\" then map({key: (.vmid | tostring), value: .}) |
        from_entries else . end)[\$id] | ${2} | $_PHOENIX_ONE" "$VM_CONFIG_FILE"
}

get_global_config_value() { _phoenix_lookup "$HYPERVISOR_CONFIG_FILE" "" "" "$1" "$_PHOENIX_ONE"; }

# Takes an id, if one is given, and `--` off the front; another container's id is refused.
_phoenix_here() {
    case "${1:-}" in
    '' | *[!0-9]*) ;;
    *)
        if [ -n "$CTID" ] && [ "$1" != "$CTID" ]; then
            log_error "container $1 cannot be reached from container $CTID"
            return 1
        fi
        return 0
        ;;
    esac
    return 2
}

pct_exec() {
    _phoenix_here "${1:-}"
    case $? in
    0) shift ;;
    1) return 1 ;;
    esac
    if [ "${1:-}" = -- ]; then shift; fi
    "$@"
}

run_in_container() { pct_exec "$@"; }

run_pct_command() {
    local verb=$1
    shift
    pct "$verb" "$@"
}

pct() {
    local verb=${1:-}
    if [ $# -gt 0 ]; then shift; fi
    case "$verb" in
    exec) pct_exec "$@" ;;
    push)
        _phoenix_here "${1:-}" || return 1
        cp -- "$2" "$3"
        ;;
    status) echo "status: running" ;;
    config) jq -r --arg id "${1:-$CTID}" '.lxc_configs[$id] | to_entries[] | "\(.key): \(.value)"' "$LXC_CONFIG_FILE" ;;
    *)
        log_error "pct $verb is not available inside a container"
        return 1
        ;;
    esac
}

is_command_available() { command -v "${2:-$1}" >/dev/null 2>&1; }

is_feature_present_on_container() { jq_get_array "$1" .features 2>/dev/null | grep -qxF -- "$2"; }

retry_command() { # tries, command...
    local tries=$1 n=1
    shift
    until "$@"; do
        if [ "$n" -ge "$tries" ]; then
            log_error "failed $tries times: $*"
            return 1
        fi
        log_warn "attempt $n of $tries failed: $*"
        n=$((n + 1))
        sleep 2
    done
}
