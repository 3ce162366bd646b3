#!/usr/bin/env bash
# Makes a Kubernetes API server for the end-to-end tests available and prints the folder of its programs.
#
#   e2e/build-kube.sh         kine, kube-apiserver, kube-controller-manager and kubectl, built from Go modules into
#                             a cache folder keyed by version; what is there already is not built again
#   e2e/build-kube.sh --node  also kubelet, kube-scheduler and kube-proxy, for a node that runs pods
#
# Nothing is built when
#   KUBECONFIG names a cluster (only kubectl is needed then; the one on the PATH serves), or
#   KUBEBUILDER_ASSETS holds the programs (etcd serves as well as kine); those that it lacks are built.
#
# The first run takes about ten minutes on two cores. Progress goes to stderr, the folder to stdout.
set -euo pipefail

# shellcheck source=e2e/go.sh
. "$(dirname "${BASH_SOURCE[0]}")/go.sh"
GIVEN="set KUBEBUILDER_ASSETS to a folder of these programs, or KUBECONFIG to a cluster"

kube=$(required_version kube k8s.io/kubernetes)
use_cache "kube-$kube-kine-$(required_version kine github.com/k3s-io/kine)"

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
if [ "${1:-}" = --node ]; then
	for name in kubelet kube-scheduler kube-proxy; do build "$name" kube "k8s.io/kubernetes/cmd/$name" "$stamp"; done
fi

echo "$bin"
