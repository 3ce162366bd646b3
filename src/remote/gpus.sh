# What follows runs on a node as root, in any POSIX shell, and changes nothing: which graphics cards the node has, what
# the kernel and the driver say of them, which device nodes are there, and which guests have them in their configuration.
# Each line begins with what it tells; fields are separated by '|'. Everything is in functions and the last line starts
# it, so a program that arrives cut short does nothing.
set -u
PATH=${PATH:-/usr/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

phoenix_link() {
    phoenix_to=$(readlink "$1" 2>/dev/null) && printf '%s' "${phoenix_to##*/}"
}

phoenix_names() {
    [ -d "$1" ] && (cd "$1" && printf '%s ' *)
}

# Display controllers and processing accelerators of NVIDIA, AMD and Intel.
phoenix_cards() {
    for phoenix_dir in "$PHOENIX_SYS"/bus/pci/devices/*; do
        if ! [ -r "$phoenix_dir/class" ]; then continue; fi
        read -r phoenix_class <"$phoenix_dir/class" || continue
        case $phoenix_class in 0x0300* | 0x0302* | 0x0380* | 0x1200*) ;; *) continue ;; esac
        read -r phoenix_vendor <"$phoenix_dir/vendor" || continue
        case $phoenix_vendor in 0x10de | 0x1002 | 0x8086) ;; *) continue ;; esac
        read -r phoenix_device <"$phoenix_dir/device" || continue
        phoenix_at=${phoenix_dir##*/}
        printf 'card|%s|%s|%s|%s|%s|%s|%s\n' "$phoenix_at" "$phoenix_vendor" "$phoenix_device" \
            "$(phoenix_link "$phoenix_dir/driver")" "$(phoenix_link "$phoenix_dir/iommu_group")" \
            "$(phoenix_names "$phoenix_dir/iommu_group/devices")" "$(phoenix_names "$phoenix_dir/drm")"
        phoenix_info="$PHOENIX_PROC/driver/nvidia/gpus/$phoenix_at/information"
        if [ -r "$phoenix_info" ]; then
            sed -n "s/^\([A-Za-z ]*\):[[:space:]]*\(.*\)$/proc|$phoenix_at|\1|\2/p" "$phoenix_info"
        fi
    done
}

# A card that has fallen off the bus can make nvidia-smi hang.
phoenix_smi() {
    timeout -k 2 20 nvidia-smi "$@" 2>&1
}

phoenix_nvidia() {
    if [ -r "$PHOENIX_PROC/driver/nvidia/version" ]; then
        sed -n 's/^NVRM version:[[:space:]]*/module|/p' "$PHOENIX_PROC/driver/nvidia/version"
    fi
    command -v nvidia-smi >/dev/null 2>&1 || return 0
    phoenix_fields=index,pci.bus_id,uuid,name,memory.total,driver_version,persistence_mode,mig.mode.current
    phoenix_fields=$phoenix_fields,memory.used,utilization.gpu,temperature.gpu,power.draw
    phoenix_said=$(phoenix_smi "--query-gpu=$phoenix_fields" --format=csv,noheader,nounits)
    phoenix_code=$?
    printf '%s\n' "$phoenix_said" | sed 's/^/smi|/'
    printf 'smi-code|%s\n' "$phoenix_code"
    case $phoenix_said in
    *Enabled*)
        phoenix_smi -q -x | grep -E '<(gpu id=|index>|gpu_instance_id>|compute_instance_id>)' | sed 's/^[[:space:]]*/mig|/'
        phoenix_smi -L | sed -n 's/^/list|/p'
        sed -n 's/^/cap|/p' "$PHOENIX_PROC/driver/nvidia-caps/mig-minors" 2>/dev/null
        ;;
    esac
}

phoenix_nodes() {
    for phoenix_node in "$PHOENIX_DEV"/nvidia* "$PHOENIX_DEV"/nvidia-caps/* "$PHOENIX_DEV"/dri/* "$PHOENIX_DEV"/kfd; do
        if [ -c "$phoenix_node" ]; then printf 'node|%s\n' "/dev${phoenix_node#"$PHOENIX_DEV"}"; fi
    done
}

# What the kernel reported of cards since the node was booted.
phoenix_faults() {
    { journalctl -k -b --no-pager -o short-unix 2>/dev/null || dmesg 2>/dev/null; } |
        grep 'NVRM: Xid' | tail -n 50 | sed 's/^/xid|/'
}

# The part before the first snapshot of each guest's configuration.
phoenix_guests() {
    for phoenix_conf in "$PHOENIX_PVE"/lxc/*.conf "$PHOENIX_PVE"/qemu-server/*.conf; do
        if [ ! -r "$phoenix_conf" ]; then continue; fi
        phoenix_name=${phoenix_conf##*/}
        case $phoenix_conf in */lxc/*) phoenix_sort=lxc ;; *) phoenix_sort=qemu ;; esac
        sed -n -e '/^\[/q' \
            -e "/^dev[0-9]*: *.*\/dev\//s/^/guest|$phoenix_sort|${phoenix_name%.conf}|/p" \
            -e "/^hostpci[0-9]*: */s/^/guest|$phoenix_sort|${phoenix_name%.conf}|/p" \
            -e "/^lxc\.mount\.entry[:=] *\/dev\//s/^/guest|$phoenix_sort|${phoenix_name%.conf}|/p" "$phoenix_conf"
    done
    if [ -r "$PHOENIX_PVE/mapping/pci.cfg" ]; then sed -n 's/^/mapping|/p' "$PHOENIX_PVE/mapping/pci.cfg"; fi
}

phoenix_gpus() {
    printf 'begin\n'
    phoenix_cards
    phoenix_nvidia
    phoenix_nodes
    phoenix_faults
    phoenix_guests
    printf 'end\n'
}
