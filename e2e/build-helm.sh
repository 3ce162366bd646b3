#!/usr/bin/env bash
# Builds helm for the tests of the chart, if it is not there, and prints the folder that it is in.
set -euo pipefail
# shellcheck source=e2e/go.sh
. "$(dirname "${BASH_SOURCE[0]}")/go.sh"

use_cache "helm-$(required_version helm helm.sh/helm/v4)"
build helm helm helm.sh/helm/v4/cmd/helm
echo "$bin"
