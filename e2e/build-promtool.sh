#!/usr/bin/env bash
# Makes promtool, with which alert rules and queries are tested, available and prints its path: built once from a Go module,
# in about three minutes, or what PROMTOOL names.
set -euo pipefail
# shellcheck source=e2e/go.sh
. "$(dirname "${BASH_SOURCE[0]}")/go.sh"
GIVEN="set PROMTOOL to a promtool"

if [ -n "${PROMTOOL:-}" ]; then
	echo "$PROMTOOL"
	exit
fi
use_cache "promtool-$(required_version promtool github.com/prometheus/prometheus)"
# Without what finds targets in clouds, which rules do not need.
GOFLAGS=-tags=remove_all_sd build promtool promtool github.com/prometheus/prometheus/cmd/promtool
echo "$bin/promtool"
