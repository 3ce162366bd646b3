#!/usr/bin/env bash
# Builds the image of the operator as an OCI archive: one static binary and CA certificates, user 65532, no shell.
#
#   image/build.sh            for this machine's architecture, into target/image/phoenix-VERSION.tar
#   ARCHES="amd64 arm64"      for several, in one archive
#   IMAGE=name:tag            another name than localhost/phoenix:VERSION
#   BUILDER=oci|buildah       how; else buildah builds from the Containerfile where it is installed and works, and
#                             otherwise the binary is built here and image/oci.py lays it into an archive
#
# The same commit gives the same bytes: times are those of the commit (SOURCE_DATE_EPOCH), dependencies those of
# Cargo.lock, and no path of this machine is in the binary. The binary carries the list of its dependencies for `cargo
# audit bin`; beside the archive lie the same list as an SBOM (CycloneDX) and checksums.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "image: $*" >&2; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# As container tools call what was built on the machine itself.
image=${IMAGE:-localhost/phoenix:$version}
out=target/image
tools=$PWD/target/tools
mkdir -p "$out" "$tools"
case $(uname -m) in
aarch64 | arm64) host=arm64 ;;
*) host=amd64 ;;
esac
arches=${ARCHES:-$host}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
export SOURCE_DATE_EPOCH PHOENIX_COMMIT=$revision
labels=(
	--label org.opencontainers.image.title=phoenix
	--label "org.opencontainers.image.version=$version"
	--label "org.opencontainers.image.revision=$revision"
	--label org.opencontainers.image.licenses=Apache-2.0
)

triple() { case $1 in amd64) echo x86_64-unknown-linux-musl ;; arm64) echo aarch64-unknown-linux-musl ;; *) say "no such architecture: $1" && exit 1 ;; esac; }

# A C compiler that links musl for any architecture (ring has C in it).
zig() {
	[ -x "$tools/zig/bin/cargo-zigbuild" ] && return
	say "installing zig and cargo-zigbuild into target/tools (once)"
	python3 -m venv "$tools/zig"
	"$tools/zig/bin/pip" install --quiet ziglang==0.15.1 cargo-zigbuild==0.24.1
}

# tool NAME VERSION: puts a subcommand of cargo on the PATH.
tool() { PATH=$(dirname "$(.ci/tool "$1" "$2")"):$PATH; }

certificates() {
	for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
		[ ! -f "$file" ] || { echo "$file" && return; }
	done
	say "no CA certificates on this machine: install the package ca-certificates"
	exit 1
}

binary() {
	local target
	target=$(triple "$1")
	rustup target add "$target" >/dev/null
	say "building for $target"
	PATH=$tools/zig/bin:$PATH \
		RUSTFLAGS="--remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
		cargo auditable zigbuild --quiet --locked --release --target "$target"
}

with_oci() {
	local arch files=()
	zig
	tool cargo-auditable 0.7.7
	for arch in $arches; do
		binary "$arch"
		files+=(--platform "$arch" "target/$(triple "$arch")/release/phoenix=/phoenix"
			"$(certificates)=/etc/ssl/certs/ca-certificates.crt")
	done
	say "laying the image out with image/oci.py"
	image/oci.py --output "$archive" --name "$image" "${labels[@]}" "${files[@]}"
}

with_buildah() {
	local arch
	say "building from the Containerfile with buildah"
	buildah manifest rm "$image" >/dev/null 2>&1 || true
	for arch in $arches; do
		buildah build --arch "$arch" --timestamp "$SOURCE_DATE_EPOCH" --build-arg "PHOENIX_COMMIT=$revision" \
			"${labels[@]}" --manifest "$image" --file Containerfile .
	done
	buildah manifest push --all "$image" "oci-archive:$archive:$image"
}

archive=$out/phoenix-$version.tar
rm -f "$archive"
builder=${BUILDER:-}
if [ -z "$builder" ]; then
	builder=oci
	if command -v buildah >/dev/null && buildah info >/dev/null 2>&1; then builder=buildah; fi
fi
"with_$builder"

tool cargo-cyclonedx 0.5.9
say "writing the SBOM"
cargo cyclonedx --quiet --format json --override-filename phoenix.cdx
mv phoenix.cdx.json "$out/phoenix-$version.cdx.json"
(cd "$out" && sha256sum "phoenix-$version.tar" "phoenix-$version.cdx.json" >"phoenix-$version.sha256")
say "built with $builder: $archive"
