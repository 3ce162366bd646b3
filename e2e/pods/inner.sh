#!/usr/bin/env bash
# The first process of a node's namespaces; see up.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$1
bin=$2
group=$3
shift 3
node=10.99.0.1
services=10.96.0.0/16
pods=10.244.0.0/24
pki=$dir/pki
mkdir -p "$pki" "$dir/log" "$dir/kubelet" "$dir/var/upper" "$dir/var/work"
mount --make-rprivate /
mount --make-rshared /
# The fixed paths of shims, CNI and kubelet stay private.
mount -t tmpfs run /run
mount -t overlay -o "lowerdir=/var,upperdir=$dir/var/upper,workdir=$dir/var/work" var /var
hostname node1
ip link set lo up
ip link add node0 type veth peer name node0p
ip addr add "$node/24" dev node0
ip link set node0 up
ip link set node0p up
ip route add default dev node0 src "$node"
sysctl -qw net.ipv4.ip_forward=1

certificate() { # NAME SUBJECT [SAN]
	openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$pki/$1.key" -out "$pki/$1.csr" 2>/dev/null
	openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 3650 \
		-out "$pki/$1.crt" ${3:+-extfile <(echo "subjectAltName=$3")} 2>/dev/null
}
openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=ca -keyout "$pki/ca.key" -out "$pki/ca.crt" 2>/dev/null
certificate apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$node,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
certificate kubelet-client /O=system:masters/CN=apiserver-kubelet-client
certificate kubelet /O=system:nodes/CN=system:node:node1 "IP:$node,DNS:node1"

: >"$pki/tokens.csv"
user() { # FILE USER [GROUP]
	local token
	token=$(openssl rand -hex 16)
	echo "$token,$2,$2,\"${3:-}\"" >>"$pki/tokens.csv"
	cat >"$dir/$1.kubeconfig" <<-END
		{"apiVersion": "v1", "kind": "Config", "current-context": "node",
		 "clusters": [{"name": "node", "cluster": {"server": "https://$node:6443", "certificate-authority": "$pki/ca.crt"}}],
		 "users": [{"name": "user", "user": {"token": "$token"}}],
		 "contexts": [{"name": "node", "context": {"cluster": "node", "user": "user"}}]}
	END
}
user admin admin system:masters
user manager system:kube-controller-manager
user scheduler system:kube-scheduler
user kubelet system:node:node1 system:nodes
user proxy system:kube-proxy

mkdir -p "$dir/cni"
for file in containerd.toml kubelet.yaml proxy.yaml bridge.conflist; do
	sed "s#@DIR@#$dir#g; s#@GROUP@#$group#g" "$here/$file" >"$dir/$file"
done
mv "$dir/bridge.conflist" "$dir/cni/"

# The kubelet wants its control group to be there; those of version 1 have one a controller, and cpuset needs its limits.
for root in /sys/fs/cgroup /sys/fs/cgroup/*; do
	case $root in
	/sys/fs/cgroup) [ -f "$root/cgroup.controllers" ] || continue ;;
	*) [ -f "$root/tasks" ] || continue ;;
	esac
	mkdir -p "$root/$group"
	for limit in cpuset.cpus cpuset.mems; do
		[ ! -f "$root/$limit" ] || [ -f "$root/cgroup.controllers" ] || cat "$root/$limit" >"$root/$group/$limit"
	done
done

start() {
	local name=$1
	shift
	"$@" >"$dir/log/$name.log" 2>&1 &
}
# await WORD... waits until the command succeeds, a minute at most.
await() {
	local i
	for ((i = 0; i < 600; i++)); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.1
	done
	echo "gave up: $*" >&2
	exit 1
}
kubectl() { "$bin/kubectl" --kubeconfig="$dir/admin.kubeconfig" "$@"; }

start containerd containerd -c "$dir/containerd.toml"
start kine "$bin/kine" --listen-address "unix://$dir/kine.sock" --metrics-bind-address=0 \
	--endpoint "sqlite://$dir/state.db?_journal=WAL&_synchronous=OFF&cache=shared&_busy_timeout=30000"
await test -S "$dir/kine.sock"
start apiserver "$bin/kube-apiserver" --etcd-servers="unix://$dir/kine.sock" --secure-port=6443 --bind-address=0.0.0.0 \
	--advertise-address="$node" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
	--client-ca-file="$pki/ca.crt" --token-auth-file="$pki/tokens.csv" --authorization-mode=Node,RBAC \
	--enable-admission-plugins=NodeRestriction --service-account-key-file="$pki/sa.key" \
	--service-account-signing-key-file="$pki/sa.key" --service-account-issuer=https://kubernetes.default.svc \
	--service-cluster-ip-range="$services" --kubelet-client-certificate="$pki/kubelet-client.crt" \
	--kubelet-client-key="$pki/kubelet-client.key" --kubelet-certificate-authority="$pki/ca.crt" \
	--kubelet-preferred-address-types=InternalIP
await kubectl get --raw /readyz
start manager "$bin/kube-controller-manager" --kubeconfig="$dir/manager.kubeconfig" \
	--authentication-kubeconfig="$dir/manager.kubeconfig" --authorization-kubeconfig="$dir/manager.kubeconfig" \
	--bind-address=127.0.0.1 --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
	--use-service-account-credentials=true --leader-elect=false
start scheduler "$bin/kube-scheduler" --kubeconfig="$dir/scheduler.kubeconfig" \
	--authentication-kubeconfig="$dir/scheduler.kubeconfig" --authorization-kubeconfig="$dir/scheduler.kubeconfig" \
	--bind-address=127.0.0.1 --leader-elect=false
await ctr -a "$dir/containerd.sock" version
for image in "$@"; do
	ctr -a "$dir/containerd.sock" -n k8s.io images import "$image" >>"$dir/log/images.log" 2>&1
done
start kubelet "$bin/kubelet" --config="$dir/kubelet.yaml" --kubeconfig="$dir/kubelet.kubeconfig" \
	--root-dir="$dir/kubelet" --cert-dir="$dir/kubelet/pki" --hostname-override=node1 --node-ip="$node"
start proxy "$bin/kube-proxy" --config="$dir/proxy.yaml" --hostname-override=node1
await kubectl get node node1
kubectl wait --for=condition=Ready node/node1 --timeout=60s >/dev/null
touch "$dir/up"
# The first process of its namespace: takes in orphans.
trap 'exit 0' TERM INT
while :; do wait -n 2>/dev/null || sleep 1; done
