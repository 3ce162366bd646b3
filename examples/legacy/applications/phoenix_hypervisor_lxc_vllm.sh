#!/bin/sh
# Starts the vLLM server of containers 950 and 951.
# Argument: the container's id. Where the unit vllm.service exists already it is only started.
set -eu
ctid=${1:?usage: $0 CTID}
here=$(cd "$(dirname "$0")" && pwd)
unit=/etc/systemd/system/vllm.service

value() { jq -r --arg id "$ctid" ".lxc_configs[\$id].$1 // empty" "$here/phoenix_lxc_configs.json"; }

if [ ! -f "$unit" ]; then
    [ -x /opt/vllm/bin/vllm ] || { echo "vLLM is not installed: the container needs the feature vllm" >&2; exit 1; }
    model=$(value vllm_model)
    [ -n "$model" ] || { echo "no vllm_model for container $ctid" >&2; exit 1; }
    port=$(value vllm_port)
    args=$(jq -r --arg id "$ctid" '.lxc_configs[$id].vllm_args // [] | map(@sh) | join(" ")' "$here/phoenix_lxc_configs.json")
    cat > "$unit" <<UNIT
[Unit]
Description=vLLM server for $model
Wants=network-online.target
After=network-online.target

[Service]
Environment=HF_HOME=/vllm_models
ExecStart=/opt/vllm/bin/vllm serve '$model' --host 0.0.0.0 --port ${port:-8000} $args
Restart=on-failure
RestartSec=10

[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
fi
systemctl enable --quiet vllm.service
systemctl start vllm.service
# Loading a model takes minutes; whether the server answers is the health check's business.
echo "vllm.service of container $ctid is $(systemctl is-active vllm.service)"
