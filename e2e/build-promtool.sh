#!/usr/bin/env bash
# Makes promtool, with which alert rules and queries are tested, available and prints its path.
#
#   e2e/build-promtool.sh  promtool, built from a Go module into a cache folder keyed by version; what is there already is
#                          not built again
#
# Nothing is built when PROMTOOL names one. The first run takes about three minutes on two cores. Progress goes to stderr,
# the path to stdout.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "build-promtool: $*" >&2; }

if [ -n "${PROMTOOL:-}" ]; then
	echo "$PROMTOOL"
	exit
fi

version=$(awk '$1 == "github.com/prometheus/prometheus" { print $2; exit }' "$here/promtool/go.mod")
bin=${XDG_CACHE_HOME:-$HOME/.cache}/phoenix/promtool-$version
mkdir -p "$bin"

# One build at a time, however many test runs ask; a second one then finds everything built.
if command -v flock >/dev/null; then
	exec 9>"$bin/.lock"
	flock 9
fi

if [ ! -x "$bin/promtool" ]; then
	command -v go >/dev/null || {
		say "promtool has to be built and Go is not installed: install Go (see $here/promtool/go.mod for the version), or" \
			"set PROMTOOL to a promtool"
		exit 1
	}
	started=$SECONDS
	say "building promtool (once; into $bin)"
	# Without what finds targets in clouds, which rules do not need. Under another name first, so that an interrupted build
	# leaves no half program.
	(cd "$here/promtool" && go build -mod=readonly -buildvcs=false -trimpath -tags remove_all_sd -ldflags "-s -w" \
		-o "$bin/.promtool.$$" github.com/prometheus/prometheus/cmd/promtool)
	mv "$bin/.promtool.$$" "$bin/promtool"
	say "built promtool in $((SECONDS - started)) s"
fi
echo "$bin/promtool"
