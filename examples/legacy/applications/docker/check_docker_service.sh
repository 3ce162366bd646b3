#!/bin/sh
# Is dockerd running, and does it answer?
set -eu
systemctl is-active --quiet docker.service || { echo "docker.service is $(systemctl is-active docker.service || true)" >&2; exit 1; }
docker version --format 'dockerd {{.Server.Version}} answers'
