#!/bin/bash
# Serves a page with the container's name and address, the way the legacy managers' application scripts were written.
set -e
SCRIPT_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" &> /dev/null && pwd)
source "${SCRIPT_DIR}/phoenix_hypervisor_common_utils.sh"

CTID=$1
if [ -z "$CTID" ]; then
    log_fatal "Usage: $0 <CTID>"
fi
log_info "Starting application script for CTID $CTID"

NAME=$(jq_get_value "$CTID" ".name") || log_fatal "no name for $CTID"
IP=$(jq_get_value "$CTID" ".network_config.ip" | cut -d'/' -f1)
mkdir -p /srv/page
cat > /srv/page/index.html <<HTML
<h1>${NAME}</h1><p>${IP}</p>
HTML
cat > /etc/systemd/system/page.service <<UNIT
[Unit]
Description=A page

[Service]
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /srv/page 8088
Restart=always

[Install]
WantedBy=multi-user.target
UNIT
pct_exec "$CTID" -- systemctl daemon-reload
pct_exec "$CTID" -- systemctl enable --now page.service || log_fatal "page.service does not start"
attempt=1
while [ $attempt -le 10 ]; do
    if curl -s --noproxy '*' http://127.0.0.1:8088/ | grep -q "$NAME"; then
        log_success "the page of $NAME is served"
        exit_script 0
    fi
    log_warn "attempt $attempt: no page yet"
    sleep 1
    attempt=$((attempt + 1))
done
log_fatal "the page never came"
