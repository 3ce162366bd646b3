#!/bin/sh
# Runs Open WebUI on port 8080, connected to the Ollama server of container 955.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
image=ghcr.io/open-webui/open-webui:v0.6.33

ollama=10.0.0.155
if [ -f "$here/phoenix_lxc_configs.json" ]; then
    found=$(jq -r '.lxc_configs["955"].network_config.ip // empty | split("/")[0]' "$here/phoenix_lxc_configs.json")
    ollama=${found:-$ollama}
fi
if [ "$(docker container inspect --format '{{.Config.Image}} {{.State.Running}}' open-webui 2> /dev/null || true)" != "$image true" ]; then
    docker pull --quiet "$image"
    docker container rm --force open-webui > /dev/null 2>&1 || true
    docker run --detach --name open-webui --restart unless-stopped --publish 8080:8080 \
        --volume open-webui:/app/backend/data --env "OLLAMA_BASE_URL=http://$ollama:11434" "$image" > /dev/null
fi
curl -sS --fail --retry 120 --retry-delay 1 --retry-all-errors -o /dev/null http://127.0.0.1:8080/health
echo "Open WebUI answers on port 8080 and uses Ollama at $ollama"
