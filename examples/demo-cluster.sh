#!/usr/bin/env bash
# A cluster to try Phoenix on: a real Kubernetes API server, a simulated Proxmox VE and the operator, all on loopback.
# examples/qwen.yaml is applied and comes to Ready. Needs Rust and Go; the first run builds Kubernetes (a quarter of an hour).
#
#   make demo-cluster           shows it and ends
#   KEEP=1 make demo-cluster    leaves a shell in which kubectl works; leaving the shell ends everything
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scale=${PHOENIX_DEMO_SCALE:-20}
work=$(mktemp -d)
pids=()
cleanup() {
	# Last started, first stopped.
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
		kill "${pids[i]}" 2>/dev/null || true
		wait "${pids[i]}" 2>/dev/null || true
	done
	rm -rf "$work"
}
trap cleanup EXIT

start() { # NAME COMMAND...: in the background, with its log in a file
	local name=$1
	shift
	"$@" >"$work/$name.log" 2>&1 &
	pids+=($!)
}
await() { # NAME COMMAND...: until the command succeeds, while the program of that name runs
	local name=$1 i
	shift
	for ((i = 0; i < 600; i++)); do
		"$@" >/dev/null 2>&1 && return
		kill -0 "${pids[-1]}" 2>/dev/null || break
		sleep 0.1
	done
	echo "demo-cluster: $name does not get ready:" >&2
	tail -n 20 "$work/$name.log" >&2
	exit 1
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

echo "==> building phoenix"
${CARGO:-cargo} build --locked --quiet
phoenix=$(realpath "${CARGO_TARGET_DIR:-target}/debug/phoenix")
# With its own servers, whatever cluster the shell is set to.
kube=$(env -u KUBECONFIG -u KUBEBUILDER_ASSETS e2e/build-kube.sh)

echo "==> starting Kubernetes"
openssl ecparam -name prime256v1 -genkey -noout -out "$work/accounts.key" 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" >"$work/tokens.csv"
port=$(free_port)
start kine "$kube/kine" --listen-address "unix://$work/kine.sock" --metrics-bind-address 0 \
	--endpoint "sqlite://$work/state.db?_journal=WAL&_synchronous=OFF&cache=shared&_busy_timeout=30000"
await kine test -S "$work/kine.sock"
start kube-apiserver "$kube/kube-apiserver" --etcd-servers="unix://$work/kine.sock" --secure-port="$port" \
	--bind-address=127.0.0.1 --advertise-address=127.0.0.1 --cert-dir="$work" --token-auth-file="$work/tokens.csv" \
	--authorization-mode=RBAC --service-account-key-file="$work/accounts.key" \
	--service-account-signing-key-file="$work/accounts.key" --service-account-issuer=https://kubernetes.default.svc \
	--service-cluster-ip-range=10.0.0.0/24 --endpoint-reconciler-type=none
user() { # FILE TOKEN
	cat >"$work/$1" <<-END
		{"apiVersion": "v1", "kind": "Config", "current-context": "demo",
		 "clusters": [{"name": "demo", "cluster": {"server": "https://127.0.0.1:$port", "certificate-authority": "$work/apiserver.crt"}}],
		 "users": [{"name": "demo", "user": {"token": "$2"}}],
		 "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo", "namespace": "phoenix"}}]}
	END
}
user kubeconfig "$token"
export KUBECONFIG=$work/kubeconfig PATH=$kube:$(dirname "$phoenix"):$PATH
await kube-apiserver kubectl get --raw /readyz
start kube-controller-manager "$kube/kube-controller-manager" --kubeconfig="$KUBECONFIG" \
	--authentication-kubeconfig="$KUBECONFIG" --authorization-kubeconfig="$KUBECONFIG" --bind-address=127.0.0.1 \
	--secure-port="$(free_port)" --service-account-private-key-file="$work/accounts.key" --leader-elect=false
await kube-controller-manager kubectl get serviceaccount default -n default

echo "==> phoenix install --namespaces phoenix --apply"
kubectl create namespace phoenix >/dev/null
"$phoenix" install --namespaces phoenix --apply | tail -n 3
# No node runs pods here: the operator runs beside, with the rights of its own service account.
user operator.kubeconfig "$(kubectl -n phoenix-system create token phoenix-operator --duration=24h)"
page=127.0.0.1:$(free_port)
start operator env KUBECONFIG="$work/operator.kubeconfig" "$phoenix" operator --namespace phoenix \
	--metrics-listen "127.0.0.1:$(free_port)" --ui-listen "$page" --time-scale "$scale"
echo "==> the fleet is shown at http://$page/"

echo "==> starting a simulated Proxmox VE ($scale times faster than a real one)"
start simulator "$phoenix" simulate --listen 127.0.0.1:0 --ssh-listen 127.0.0.1:0 --dir "$work/sim" --time-scale "$scale"
await simulator test -f "$work/sim/simulator.json"

echo "==> kubectl apply -f hypervisor.yaml -f examples/qwen.yaml"
kubectl apply -f "$work/sim/hypervisor.yaml" -f examples/qwen.yaml
echo "==> kubectl get phoenixlxc -w"
kubectl get phoenixlxc -w &
watcher=$!
if ! kubectl wait --for=condition=Ready phoenixlxc/qwen --timeout=300s >/dev/null; then
	kubectl describe phoenixlxc qwen
	tail -n 20 "$work/operator.log"
	exit 1
fi
sleep 1
kill "$watcher" 2>/dev/null
wait "$watcher" 2>/dev/null || true
echo "==> kubectl get phoenix"
kubectl get phoenix

if [ -n "${KEEP:-}" ]; then
	echo "==> KUBECONFIG is set, kubectl and phoenix are on the PATH; logs are in $work. Leave the shell to end everything."
	"${SHELL:-bash}" || true
fi
