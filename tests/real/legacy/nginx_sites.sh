#!/bin/bash
# Writes a gateway's sites from the ports of every container in phoenix_lxc_configs.json.
CTID="$1"
CONFIG=/tmp/phoenix_run/phoenix_lxc_configs.json
. /tmp/phoenix_run/common_utils.sh
set -euo pipefail

command -v jq > /dev/null || { echo "jq is missing" >&2; exit 1; }
out=/etc/gateway/sites.conf
mkdir -p "$(dirname "$out")"
: > "$out.new"
for id in $(jq -r '.lxc_configs | keys[]' "$CONFIG"); do
    [ "$id" != "$CTID" ] || continue
    ip=$(jq -r --arg id "$id" '.lxc_configs[$id].network_config.ip | split("/")[0]' "$CONFIG")
    while IFS= read -r mapping; do
        [ -n "$mapping" ] || continue
        name=$(jq_get_value "$id" ".name")
        echo "server { server_name $name; location / { proxy_pass http://$ip:${mapping#*:}; } }" >> "$out.new"
        log_debug "site for $name"
    done < <(jq_get_array "$id" ".ports")
done
mv "$out.new" "$out"
log_info "wrote $(wc -l < "$out") sites"
