#!/usr/bin/env bash
# Packs the files of a release into target/release-files, once image/build.sh has built the binaries (BUILDER=oci): programs
# with completions and manual pages, the image, its SBOM, the chart, install.yaml, the plugin's manifest and checksums.
#
#   IMAGE=registry/owner/phoenix:1.2.3   the image as clusters pull it; chart and install.yaml name it
#   HOMEPAGE=https://…                   the repository; releases are below it at releases/download/vVERSION
#   ARCHES="amd64 arm64"                 for which there are binaries
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
image=${IMAGE:-localhost/phoenix:$version}
homepage=${HOMEPAGE:?the address of the repository}
arches=${ARCHES:-amd64 arm64}
out=target/release-files
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
rm -rf "$out"
mkdir -p "$out"

binary() { case $1 in arm64) echo target/aarch64-unknown-linux-musl/release/phoenix ;; *) echo target/x86_64-unknown-linux-musl/release/phoenix ;; esac; }
case $(uname -m) in
aarch64 | arm64) phoenix=$(binary arm64) ;;
*) phoenix=$(binary amd64) ;;
esac

# The same files give the same bytes.
pack() {
	tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$2" -cf - . | gzip -n >"$1"
}

folder=$out/.phoenix
mkdir -p "$folder/completions" "$folder/man"
for shell in bash zsh fish elvish powershell; do
	"$phoenix" completions "$shell" >"$folder/completions/phoenix.$shell"
done
"$phoenix" man --output-dir "$folder/man"
cp LICENSE "$folder/"
sums=()
for arch in $arches; do
	install -m 755 "$(binary "$arch")" "$folder/phoenix"
	archive=$out/phoenix-$version-linux-$arch.tar.gz
	pack "$archive" "$folder"
	sums+=(-e "s|@SHA256_${arch^^}@|$(sha256sum "$archive" | cut -d ' ' -f 1)|")
done
rm -rf "$folder"

sed -e "s|@VERSION@|$version|g" -e "s|@HOMEPAGE@|$homepage|" -e "s|@DOWNLOADS@|$homepage/releases/download/v$version|" \
	"${sums[@]}" config/krew/phoenix.yaml >"$out/krew-phoenix.yaml"
"$phoenix" install --image "$image" --features none >"$out/install.yaml"
for file in config/features/*.yaml; do echo --- && cat "$file"; done >"$out/features.yaml"

# The chart of a release names the release's image.
chart=target/release-chart
rm -rf "$chart"
cp -r charts/phoenix "$chart"
repository=${image%:*} registry=""
case $repository in */*) registry=${repository%%/*} repository=${repository#*/} ;; esac
sed -i -e "s|^  registry: \"\"|  registry: \"$registry\"|" -e "s|^  repository: phoenix\$|  repository: $repository|" "$chart/values.yaml"
sed -i "s|image: \"phoenix:$version\"|image: \"$image\"|" "$chart/Chart.yaml"
"$(e2e/build-helm.sh)/helm" package "$chart" --destination "$out" >&2

cp "target/image/phoenix-$version.tar" "$out/phoenix-$version-image.tar"
cp "target/image/phoenix-$version.cdx.json" "$out/"
(cd "$out" && sha256sum -- * >SHA256SUMS)
echo "release: $(find "$out" -type f | wc -l) files in $out" >&2
