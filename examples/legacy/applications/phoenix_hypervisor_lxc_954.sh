#!/bin/sh
# Runs n8n on port 5678, with its data on the volume at /home/node/.n8n.
set -eu
image=n8nio/n8n:1.123.5
data=/home/node/.n8n

mkdir -p "$data"
# n8n runs as user 1000 in its image.
chown 1000:1000 "$data"
if [ "$(docker container inspect --format '{{.Config.Image}} {{.State.Running}}' n8n 2> /dev/null || true)" != "$image true" ]; then
    docker pull --quiet "$image"
    docker container rm --force n8n > /dev/null 2>&1 || true
    # Behind the gateway: without TLS of its own the browser would not get its session cookie.
    docker run --detach --name n8n --restart unless-stopped --publish 5678:5678 \
        --volume "$data:/home/node/.n8n" --env N8N_SECURE_COOKIE=false "$image" > /dev/null
fi
curl -sS --fail --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null http://127.0.0.1:5678/healthz
echo "n8n answers on port 5678"
