#!/usr/bin/env bash
# Phoenix on a simulated Proxmox VE whose containers are real: LXC containers with Debian on this machine, commands in
# them over a real OpenSSH server. A template gets its packages, a clone of it an application that answers.
# Needs Linux and root (e2e/node/prepare.sh says what else it installs), listens on loopback, leaves nothing running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ -n "$(e2e/node/prepare.sh)" ] || exit 0
work=$(mktemp -d)
node=$work/node
mkdir "$node"
simulator=
cleanup() {
    if [ -n "$simulator" ]; then
        kill "$simulator" 2>/dev/null || true
        wait "$simulator" 2>/dev/null || true
    fi
    e2e/node/down.sh "$node" || true
    rm -rf "$work"
}
trap cleanup EXIT

echo "==> building phoenix"
${CARGO:-cargo} build --locked --quiet
phoenix=${CARGO_TARGET_DIR:-target}/debug/phoenix

echo "==> starting a node (sshd and a proxy) and a simulated Proxmox VE in front of it"
e2e/node/up.sh "$node" $$
"$phoenix" simulate --listen 127.0.0.1:0 --ssh-listen 127.0.0.1:0 --dir "$work/sim" --time-scale 50 \
    --guest-hook "$node/hook" >"$work/simulator.log" 2>&1 &
simulator=$!
for _ in $(seq 100); do
    [ -f "$work/sim/simulator.json" ] && break
    kill -0 "$simulator" 2>/dev/null || { cat "$work/simulator.log"; exit 1; }
    sleep 0.1
done
mkdir "$work/manifests"
# Commands about configurations go from the node to the simulator; Phoenix itself talks to the node.
python3 - "$work/sim" "$node" "$work/manifests/hypervisor.yaml" <<'PYTHON'
import json, os, pathlib, shutil, sys
sim, node, target = map(pathlib.Path, sys.argv[1:])
told = json.loads((sim / "simulator.json").read_text())
port = told["ssh"]["phoenix"].rsplit(":", 1)[1]
(node / "simulator/port").write_text(port)
shutil.copy(sim / "known_hosts", node / "simulator/known_hosts")
shutil.copy(sim / "ssh-key", node / "simulator/key")
os.chmod(node / "simulator/key", 0o600)
objects = [json.loads(part) for part in (sim / "hypervisor.yaml").read_text().split("---\n") if part.strip()]
for value in objects:
    if value["metadata"]["name"] == "pve-ssh":
        value["stringData"] = {"ssh-privatekey": (node / "client_key").read_text(),
                               "known_hosts": (node / "known_hosts").read_text()}
    if value["kind"] == "PhoenixHypervisor":
        value["spec"]["ssh"]["hosts"]["phoenix"] = "127.0.0.1:" + (node / "port").read_text().strip()
target.write_text("".join("---\n" + json.dumps(value, indent=2) + "\n" for value in objects))
PYTHON
cp config/features/base-setup.yaml examples/real.yaml "$work/manifests/"

echo "==> phoenix apply"
"$phoenix" apply -f "$work/manifests" -n phoenix --state "$work/state" --time-scale 10 --timeout 20m

echo "==> what runs in the container"
NODE=$node e2e/node/bin/pct exec 950 -- /bin/sh -c \
    'cat /etc/os-release | head -n 1; systemctl is-active hello.service; curl -fsS --noproxy "*" http://127.0.0.1:8080/'

echo "==> phoenix apply, again"
"$phoenix" apply -f "$work/manifests" -n phoenix --state "$work/state" --time-scale 10 --timeout 20m | tail -n 1
