#!/usr/bin/env bash
# The main job in one go: a legacy fleet's JSON files are converted, applied and brought to Ready on a simulated
# Proxmox VE. Needs Rust only, listens on loopback, and leaves nothing running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scale=${PHOENIX_DEMO_SCALE:-50}
work=$(mktemp -d)
simulator=
cleanup() {
    if [ -n "$simulator" ]; then
        kill "$simulator" 2>/dev/null || true
        wait "$simulator" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

echo "==> building phoenix"
${CARGO:-cargo} build --locked --quiet
phoenix=${CARGO_TARGET_DIR:-target}/debug/phoenix

echo "==> starting a simulated Proxmox VE ($scale times faster than a real one)"
"$phoenix" simulate --listen 127.0.0.1:0 --ssh-listen 127.0.0.1:0 --dir "$work/sim" --time-scale "$scale" \
    >"$work/simulator.log" 2>&1 &
simulator=$!
for _ in $(seq 100); do
    [ -f "$work/sim/simulator.json" ] && break
    kill -0 "$simulator" 2>/dev/null || { cat "$work/simulator.log"; exit 1; }
    sleep 0.1
done
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$work/sim/simulator.json" | head -n 1; }
api=$(field apiUrl)
ssh=$(field phoenix)

echo "==> converting examples/legacy"
"$phoenix" convert --hypervisor-config examples/legacy/phoenix_hypervisor_config.json \
    --lxc-configs examples/legacy/phoenix_lxc_configs.json --vm-configs examples/legacy/phoenix_vm_configs.json \
    --applications examples/legacy/applications --hypervisor-name proxmox --output-dir "$work/fleet" --report "$work/report.json" \
    2>"$work/convert.log" || { cat "$work/convert.log"; exit 1; }
tail -n 2 "$work/convert.log"
# The files describe a machine of somebody's; here the simulator stands in for it.
sed -i -e "s|https://10.0.0.13:8006|$api|" -e "s|^  ssh:|  ssh:\n    hosts:\n      phoenix: $ssh|" \
    "$work/fleet/phoenixhypervisor-proxmox.yaml"
cp "$work/sim/secrets.yaml" "$work/fleet/secrets.yaml"

echo "==> phoenix apply --ui"
"$phoenix" apply -f "$work/fleet" --state "$work/state" --time-scale "$scale" --timeout 20m --ui

echo "==> phoenix apply, again"
"$phoenix" apply -f "$work/fleet" --state "$work/state" --time-scale "$scale" --timeout 20m | tail -n 1

echo "==> phoenix gpus"
"$phoenix" gpus -f "$work/fleet" --state "$work/state"

echo "==> phoenix graph"
"$phoenix" graph -f "$work/fleet" --state "$work/state"
