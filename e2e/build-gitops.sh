#!/usr/bin/env bash
# Makes a program available that says what Argo CD and Flux conclude from an object, and prints its path.
#
#   e2e/build-gitops.sh
#
# It is built from Go modules into a cache folder keyed by what it is built from, once; what is there already is not
# built again. The first run takes about three minutes on two cores. Progress goes to stderr, the path to stdout.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/gitops" && pwd)

say() { echo "build-gitops: $*" >&2; }

# required_version MODULE: the version that go.mod requires of MODULE
required_version() { awk -v module="$1" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$here/go.mod"; }

source=$(cd "$here" && cat go.mod go.sum main.go | sha256sum | cut -c 1-12)
argocd=$(required_version github.com/argoproj/argo-cd/v3)
kstatus=$(required_version sigs.k8s.io/cli-utils)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/phoenix/argocd-$argocd-kstatus-$kstatus-$source
mkdir -p "$bin"

# One build at a time, however many test runs ask; a second one then finds everything built.
if command -v flock >/dev/null; then
	exec 9>"$bin/.lock"
	flock 9
fi

program=$bin/gitops-verdicts
if [ ! -x "$program" ]; then
	command -v go >/dev/null || {
		say "it has to be built and Go is not installed: install Go (see $here/go.mod for the version)"
		exit 1
	}
	started=$SECONDS
	say "building the evaluator of Argo CD $argocd and kstatus $kstatus (once; into $bin)"
	# Under another name first, so that an interrupted build leaves no half program.
	(cd "$here" && go build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w" -o "$bin/.build.$$" .)
	mv "$bin/.build.$$" "$program"
	say "built it in $((SECONDS - started)) s"
fi
echo "$program"
