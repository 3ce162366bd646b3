# Snippets of a storage, which Proxmox has no call to write (facts G.4). Everything is in a function that the last line
# calls, so a script that arrives cut short does nothing.
set -u
umask 022

phoenix_snippet() {
    phoenix_path=$(pvesm path "$PHOENIX_VOLID") || exit 14
    case "$phoenix_path" in
    /*/snippets/*) ;;
    *)
        echo "unexpected path of $PHOENIX_VOLID: $phoenix_path" >&2
        exit 14
        ;;
    esac
    case "$1" in
    find)
        if [ -s "$phoenix_path" ]; then echo present=1; else echo present=0; fi
        ;;
    write)
        mkdir -p "${phoenix_path%/*}" || exit 14
        base64 -d >"$phoenix_path.phoenix.$$" && mv -f "$phoenix_path.phoenix.$$" "$phoenix_path" && echo present=1 && return
        rm -f "$phoenix_path.phoenix.$$"
        exit 14
        ;;
    remove)
        rm -f "$phoenix_path" || exit 14
        echo present=0
        ;;
    esac
}
