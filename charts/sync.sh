#!/bin/sh
# Copies what the chart and config/crd have from elsewhere in the repository: neither helm nor kustomize reads files outside
# of its folder. A test compares.
set -eu
cd "$(dirname "$0")/.."
files=charts/phoenix/files
rm -rf "$files"
mkdir -p "$files/crds" "$files/features"
cp crds/*.yaml "$files/crds/"
cp config/features/*.yaml "$files/features/"
cp config/monitoring/phoenix.rules.yaml config/monitoring/dashboard.json "$files/"
cp crds/*.yaml config/crd/
charts/readme.py
