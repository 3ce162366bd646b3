# What follows runs on a node as root, in any POSIX shell, and does something to its graphics cards. Everything is in
# functions and the last line starts it, so a program that arrives cut short does nothing.
set -u
PATH=${PATH:-/usr/bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
PHOENIX_SYS=${PHOENIX_SYS:-/sys}
PHOENIX_DEV=${PHOENIX_DEV:-/dev}

# phoenix_gpu_nodes MINOR...: nvidia-modprobe comes with the driver; it loads the modules and makes the nodes.
phoenix_gpu_nodes() {
    command -v nvidia-modprobe >/dev/null 2>&1 || {
        echo "nvidia-modprobe is not there: install NVIDIA's driver on the node" >&2
        return 1
    }
    modprobe nvidia || return 1
    modprobe nvidia_uvm || return 1
    nvidia-modprobe -u -c=0 || return 1
    for phoenix_minor in "$@"; do
        nvidia-modprobe -c="$phoenix_minor" || return 1
    done
    for phoenix_node in nvidiactl nvidia-uvm; do
        [ -e "$PHOENIX_DEV/$phoenix_node" ] || {
            echo "nvidia-modprobe ended well, but /dev/$phoenix_node is not there" >&2
            return 1
        }
    done
}

# phoenix_gpu_bind ADDRESS DRIVER: nobody may have the card open, or the kernel waits for it; a guest that runs with it
# is the caller's matter, and what else has it open is looked for here.
phoenix_gpu_bind() {
    phoenix_device="$PHOENIX_SYS/bus/pci/devices/$1"
    [ -d "$phoenix_device" ] || {
        echo "there is no PCI device $1" >&2
        return 1
    }
    [ -d "$PHOENIX_SYS/bus/pci/drivers/$2" ] || modprobe "$2" || return 1
    printf '%s' "$2" >"$phoenix_device/driver_override" || return 1
    if [ -e "$phoenix_device/driver" ]; then
        printf '%s' "$1" >"$phoenix_device/driver/unbind" || return 1
    fi
    printf '%s' "$1" >"$PHOENIX_SYS/bus/pci/drivers_probe" || return 1
    phoenix_bound=$(readlink "$phoenix_device/driver")
    [ "${phoenix_bound##*/}" = "$2" ] || {
        echo "$1 is not bound to $2 but to ${phoenix_bound##*/}" >&2
        return 1
    }
}
