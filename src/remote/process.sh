# The start time of a process in ticks since boot: with the process id it names one process for ever. Empty for a
# process that is gone or only waits to be reaped.
phoenix_born() {
    phoenix_stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    set -- ${phoenix_stat##*) }
    case "${1:-}" in '' | Z | X) ;; *) printf %s "${20:-}" ;; esac
}

# What start of the guest this is: the kernel's boot and the start time of the first process, which in a container is the
# container's own. Empty where the guest does not say.
phoenix_boot() {
    phoenix_kernel=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null) || return 0
    phoenix_init=$(phoenix_born 1)
    [ -z "$phoenix_kernel" ] || [ -z "$phoenix_init" ] || printf %s "$phoenix_kernel/$phoenix_init"
}
