#!/bin/sh
# Prometheus on port 9090 and Grafana on port 3000, by Docker Compose; scrapes the fleet's vLLM servers.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=/opt/monitoring
mkdir -p "$dir"

targets="'10.0.0.150:8000', '10.0.0.151:8000'"
if [ -f "$here/phoenix_lxc_configs.json" ]; then
    found=$(jq -r '[.lxc_configs[] | select(.vllm_model) | "\u0027" + (.network_config.ip | split("/")[0])
        + ":" + ((.vllm_port // 8000) | tostring) + "\u0027"] | join(", ")' "$here/phoenix_lxc_configs.json")
    targets=${found:-$targets}
fi
cat > "$dir/prometheus.yml" <<CONF
global:
  scrape_interval: 15s
scrape_configs:
  - job_name: prometheus
    static_configs: [{targets: ['localhost:9090']}]
  - job_name: vllm
    static_configs: [{targets: [$targets]}]
CONF
cat > "$dir/compose.yml" <<'CONF'
services:
  prometheus:
    image: prom/prometheus:v3.5.0
    restart: unless-stopped
    ports: ['9090:9090']
    volumes: ['./prometheus.yml:/etc/prometheus/prometheus.yml:ro', 'prometheus:/prometheus']
  grafana:
    image: grafana/grafana:12.1.1
    restart: unless-stopped
    ports: ['3000:3000']
    volumes: ['grafana:/var/lib/grafana']
volumes:
  prometheus: {}
  grafana: {}
CONF
cd "$dir"
if docker compose version > /dev/null 2>&1; then
    docker compose up --detach --quiet-pull
else
    docker-compose up --detach
fi
# Prometheus reads a changed configuration on SIGHUP.
docker kill --signal HUP "$(docker ps --quiet --filter name=prometheus)" > /dev/null
curl -sS --fail --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null http://127.0.0.1:9090/-/ready
curl -sS --fail --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null http://127.0.0.1:3000/api/health
echo "Prometheus and Grafana answer; Grafana's first sign-in is admin/admin and asks for a new password"
