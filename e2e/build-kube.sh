#!/usr/bin/env bash
# Makes a Kubernetes API server for the end-to-end tests available and prints the folder of its programs.
#
#   e2e/build-kube.sh      kine, kube-apiserver, kube-controller-manager and kubectl, built from Go modules into
#                          a cache folder keyed by version; what is there already is not built again
#
# Nothing is built when
#   KUBECONFIG names a cluster (only kubectl is needed then; the one on the PATH serves), or
#   KUBEBUILDER_ASSETS holds the programs (etcd serves as well as kine); those that it lacks are built.
#
# The first run takes about ten minutes on two cores. Progress goes to stderr, the folder to stdout.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "build-kube: $*" >&2; }

# required_version DIR MODULE: the version that DIR/go.mod requires of MODULE
required_version() {
	awk -v module="$2" '
		$1 == "require" && $2 == module { print $3; exit }
		$1 == module && $2 ~ /^v/ { print $2; exit }
	' "$here/$1/go.mod"
}

kube=$(required_version kube k8s.io/kubernetes)
kine=$(required_version kine github.com/k3s-io/kine)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/phoenix/kube-$kube-kine-$kine
mkdir -p "$bin"

# One build at a time, however many test runs ask; a second one then finds everything built.
if command -v flock >/dev/null; then
	exec 9>"$bin/.lock"
	flock 9
fi

# given NAME...: is one of the programs already supplied by the environment?
given() {
	local name
	for name in "$@"; do
		if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/$name" ]; then return 0; fi
	done
	if [ -n "${KUBECONFIG:-}" ]; then
		[ "$1" != kubectl ] || command -v kubectl >/dev/null
		return
	fi
	return 1
}

# build NAME DIR PACKAGE [LDFLAGS]: builds under another name first, so that an interrupted build leaves no half program
build() {
	local name=$1 dir=$2 package=$3 ldflags="-s -w ${4:-}" started=$SECONDS
	if [ -x "$bin/$name" ]; then return; fi
	command -v go >/dev/null || {
		say "$name has to be built and Go is not installed: install Go (see $here/$dir/go.mod for the version), or set" \
			"KUBEBUILDER_ASSETS to a folder of these programs, or KUBECONFIG to a cluster"
		exit 1
	}
	say "building $name (once; into $bin)"
	(cd "$here/$dir" && go build -mod=readonly -buildvcs=false -trimpath -ldflags "$ldflags" -o "$bin/.$name.$$" "$package")
	mv "$bin/.$name.$$" "$bin/$name"
	say "built $name in $((SECONDS - started)) s"
}

# Without these the server calls itself v0.0.0, and clients misjudge its features.
numbers=${kube#v}
major=${numbers%%.*}
minor=${numbers#*.}
minor=${minor%%.*}
component=k8s.io/component-base/version
stamp="-X $component.gitVersion=$kube -X $component.gitMajor=$major -X $component.gitMinor=$minor"

for name in kube-apiserver kube-controller-manager kubectl; do
	given "$name" || build "$name" kube "k8s.io/kubernetes/cmd/$name" "$stamp"
done
given kine etcd || build kine kine github.com/k3s-io/kine

echo "$bin"
