#!/bin/sh
# Puts the model server @NAME@ in place as the object's block says, and restarts it where something changed.
set -eu
from=/run/phoenix/@NAME@
changed=
put() { # name, target, mode
  cmp -s "$from/$1" "$2" || {
    install -m "$3" "$from/$1" "$2.phoenix-new"
    mv -f "$2.phoenix-new" "$2"
    changed=yes
  }
  chmod "$3" "$2"
}
die() { echo "@NAME@: $*" >&2; exit 1; }
# A guest runs one model server: that of an earlier block ends.
for other in vllm ollama llamacpp; do
  if [ "$other" != @NAME@ ] && [ -e "/etc/phoenix/$other.env" ]; then
    systemctl disable --quiet --now "$other.service"
    rm -rf "/etc/phoenix/$other.env" "/etc/systemd/system/$other.service.d/50-phoenix.conf" "/var/lib/phoenix/$other"
  fi
done
