#!/bin/sh
# Takes out of this machine what its clones must not share. It is run once, right before the machine is shut down.
set -eu

# cloud-init runs again in each clone, and makes new SSH host keys there.
if command -v cloud-init >/dev/null 2>&1; then
    cloud-init clean --logs
fi
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
# Without cloud-init the keys are made at the next boot.
if ! command -v cloud-init >/dev/null 2>&1 && command -v ssh-keygen >/dev/null 2>&1 && [ -d /etc/systemd/system ]; then
    cat >/etc/systemd/system/phoenix-ssh-host-keys.service <<'UNIT'
[Unit]
Description=Make SSH host keys that a template lacks
Before=ssh.service sshd.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
UNIT
    systemctl enable phoenix-ssh-host-keys.service >/dev/null 2>&1 || true
fi

# An empty file is filled at boot; a missing one makes systemd take the boot for the very first of an image.
: >/etc/machine-id
if [ -e /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
    ln -sf /etc/machine-id /var/lib/dbus/machine-id
fi
rm -f /var/lib/systemd/random-seed /var/lib/dhcp/* /var/lib/NetworkManager/*lease* 2>/dev/null || true
rm -rf /var/lib/systemd/network 2>/dev/null || true

# Logs say whose they are; the journal's folder carries the old machine-id.
if command -v journalctl >/dev/null 2>&1; then
    journalctl --rotate >/dev/null 2>&1 || true
    journalctl --vacuum-time=1s >/dev/null 2>&1 || true
fi
rm -rf /var/log/journal/* /tmp/phoenix_run
find /var/log -type f \( -name '*.gz' -o -name '*.[0-9]' \) -delete
find /var/log -type f -exec sh -c 'for f; do : >"$f"; done' sh {} +
rm -f /root/.bash_history /root/.ssh/known_hosts

# fstrim is not everywhere, nor does every disk take it.
fstrim --all >/dev/null 2>&1 || true
sync
echo 'this machine can become a template'
