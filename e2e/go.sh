# shellcheck shell=bash
# Builds programs that tests use from Go modules, once, into a cache folder keyed by version. Sourced by the build-*.sh
# beside it; progress goes to stderr.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "$(basename "$0" .sh): $*" >&2; }

# required_version FOLDER MODULE: the version that e2e/FOLDER/go.mod requires of MODULE
required_version() {
	awk -v module="$2" '
		$1 == "require" && $2 == module { print $3; exit }
		$1 == module && $2 ~ /^v/ { print $2; exit }
	' "$here/$1/go.mod"
}

# use_cache NAME: sets bin to the cache folder. One build at a time, however many test runs ask; a second one then finds
# everything built.
use_cache() {
	bin=${XDG_CACHE_HOME:-$HOME/.cache}/phoenix/$1
	mkdir -p "$bin"
	if command -v flock >/dev/null; then
		exec 9>"$bin/.lock"
		flock 9
	fi
}

# build NAME FOLDER PACKAGE [LDFLAGS]: builds under another name first, so that an interrupted build leaves no half program
build() {
	local name=$1 folder=$2 package=$3 ldflags="-s -w ${4:-}" started=$SECONDS
	if [ -x "$bin/$name" ]; then return; fi
	command -v go >/dev/null || {
		say "$name has to be built and Go is not installed: install Go (see $here/$folder/go.mod for the version)${GIVEN:+, or $GIVEN}"
		exit 1
	}
	say "building $name (once; into $bin)"
	(cd "$here/$folder" && go build -mod=readonly -buildvcs=false -trimpath -ldflags "$ldflags" -o "$bin/.$name.$$" "$package")
	mv "$bin/.$name.$$" "$bin/$name"
	say "built $name in $((SECONDS - started)) s"
}
