#!/bin/bash
# Writes the unit of a model server from the vllm_* keys, as legacy scripts did.
SCRIPT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" &> /dev/null && pwd)
source "${SCRIPT_DIR}/phoenix_hypervisor_common_utils.sh"
CTID="$1"
SERVICE_NAME="vllm_model_server"

parse_config() {
    MODEL=$(jq_get_value "$CTID" ".vllm_model") || log_fatal "vllm_model is not configured"
    SERVED_MODEL_NAME=$(jq_get_value "$CTID" ".vllm_served_model_name") || SERVED_MODEL_NAME=$MODEL
    PORT=$(jq_get_value "$CTID" ".vllm_port") || PORT=8000
    mapfile -t ARGS < <(jq_get_array "$CTID" "(.vllm_args // [])")
}

write_unit() {
    local args_string
    args_string=$(printf " %q" "${ARGS[@]}")
    cat > "/etc/systemd/system/${SERVICE_NAME}.service" <<UNIT
[Unit]
Description=vLLM Model Server
After=network.target

[Service]
User=root
WorkingDirectory=/
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 ${PORT}
Environment=MODEL=${MODEL} "ARGS=${args_string# }"

[Install]
WantedBy=multi-user.target
UNIT
}

if [ "$(jq_get_value "$CTID" .vllm_trust_remote_code)" != "true" ]; then
    log_warn "remote code is not trusted"
fi
parse_config
log_info "model ${MODEL} as ${SERVED_MODEL_NAME} on port ${PORT} with ${#ARGS[@]} arguments"
write_unit
systemctl daemon-reload
systemctl enable --now "$SERVICE_NAME" || log_fatal "Failed to start $SERVICE_NAME"
retry_command 5 curl -s --noproxy '*' -o /dev/null "http://127.0.0.1:${PORT}/"
log_success "${SERVED_MODEL_NAME} answers"
