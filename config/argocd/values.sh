#!/usr/bin/env bash
# Prints the health checks and actions of this folder as values of Argo CD's Helm chart (`make argocd` keeps them in
# examples/argocd/values.yaml).
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/resource_customizations"

# indented COLUMNS FILE: the text of a file as a YAML block; empty lines stay empty
indented() { sed "s/^\(.\)/$(printf '%*s' "$1" '')\1/" "$2"; }

echo "# Health checks and actions of Phoenix's kinds, for Argo CD's Helm chart: helm upgrade … -f values.yaml."
echo "# Made by \`make argocd\` from config/argocd: edit the files there."
echo "configs:"
echo "  cm:"
for folder in */*; do
	kind=${folder/\//_}
	echo "    resource.customizations.health.$kind: |"
	indented 6 "$folder/health.lua"
	[ -e "$folder/actions/discovery.lua" ] || continue
	echo "    resource.customizations.actions.$kind: |"
	echo "      discovery.lua: |"
	indented 8 "$folder/actions/discovery.lua"
	echo "      definitions:"
	for action in "$folder"/actions/*/action.lua; do
		name=$(basename "$(dirname "$action")")
		echo "      - name: $name"
		echo "        action.lua: |"
		indented 10 "$action"
	done
done
