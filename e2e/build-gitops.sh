#!/usr/bin/env bash
# Makes a program available that says what Argo CD and Flux conclude from an object, and prints its path: built once from Go
# modules, in about three minutes.
set -euo pipefail
# shellcheck source=e2e/go.sh
. "$(dirname "${BASH_SOURCE[0]}")/go.sh"

# Keyed by what it is built from.
use_cache "gitops-$(cat "$here"/gitops/{go.mod,go.sum,main.go} | sha256sum | cut -c 1-12)"
build gitops-verdicts gitops .
echo "$bin/gitops-verdicts"
