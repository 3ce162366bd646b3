#!/bin/sh
# Runs the Qdrant vector database on ports 6333 (HTTP) and 6334 (gRPC), with its data on the volume at /qdrant/storage.
set -eu
image=qdrant/qdrant:v1.15.4

mkdir -p /qdrant/storage
if [ "$(docker container inspect --format '{{.Config.Image}} {{.State.Running}}' qdrant 2> /dev/null || true)" != "$image true" ]; then
    docker pull --quiet "$image"
    docker container rm --force qdrant > /dev/null 2>&1 || true
    docker run --detach --name qdrant --restart unless-stopped \
        --publish 6333:6333 --publish 6334:6334 --volume /qdrant/storage:/qdrant/storage "$image" > /dev/null
fi
curl -sS --fail --retry 30 --retry-delay 1 --retry-all-errors -o /dev/null http://127.0.0.1:6333
echo "Qdrant answers on port 6333"
