#!/usr/bin/env python3
"""Lays files into an OCI image archive, without a container engine and byte for byte the same for the same files.

oci.py --output OUT.tar --name phoenix:0.1.0 [--user 65532:65532] [--label KEY=VALUE]... \\
       --platform amd64 FILE=/in/image... [--platform arm64 FILE=/in/image...]

Each platform is one image of one layer; the first file is the entrypoint. Times are SOURCE_DATE_EPOCH, or 0.
"""

import argparse
import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile

EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def entry(name, **fields):
    info = tarfile.TarInfo(name)
    info.mtime = EPOCH
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def layer(files):
    """A tar of the files, folders first; all belong to root and can only be read and run."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        folders = {str(parent) for _, to in files for parent in pathlib.PurePosixPath(to).parents}
        for folder in sorted(folders - {"."}):
            tar.addfile(entry(folder, type=tarfile.DIRTYPE, mode=0o755))
        for source, to in sorted(files, key=lambda file: file[1]):
            data = pathlib.Path(source).read_bytes()
            mode = 0o755 if os.access(source, os.X_OK) else 0o644
            tar.addfile(entry(to, size=len(data), mode=mode), io.BytesIO(data))
    return out.getvalue()


class Layout:
    def __init__(self):
        self.blobs = {}

    def put(self, data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def put_json(self, value, media_type):
        return self.put(json.dumps(value, separators=(",", ":")).encode(), media_type)

    def image(self, arch, files, user, labels):
        raw = layer(files)
        packed = gzip.compress(raw, compresslevel=6, mtime=0)
        created = datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = {
            "created": created,
            "architecture": arch,
            "os": "linux",
            "config": {"Entrypoint": ["/" + files[0][1]], "User": user, "Labels": labels, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(raw).hexdigest()]},
            "history": [{"created": created, "created_by": "image/oci.py"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put_json(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [self.put(packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
        return self.put_json(manifest, MANIFEST) | {"platform": {"architecture": arch, "os": "linux"}}

    def write(self, output, name, manifests):
        """With several platforms the name points to an index of them."""
        top = manifests[0]
        if len(manifests) > 1:
            top = self.put_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, INDEX)
        tag = name.rsplit(":", 1)[-1]
        top = top | {"annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]}
        with tarfile.open(output, "w", format=tarfile.USTAR_FORMAT) as tar:
            members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
            members |= {f"blobs/sha256/{digest}": data for digest, data in sorted(self.blobs.items())}
            for path, data in members.items():
                tar.addfile(entry(path, size=len(data), mode=0o644), io.BytesIO(data))
        return top["digest"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--user", default="65532:65532")
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--platform", action="append", nargs="+", required=True, metavar="ARCH FILE=/PATH")
    args = parser.parse_args()
    labels = dict(label.split("=", 1) for label in args.label)
    layout = Layout()
    manifests = []
    for arch, *files in args.platform:
        pairs = [(source, to.lstrip("/")) for source, to in (file.split("=", 1) for file in files)]
        manifests.append(layout.image(arch, pairs, args.user, labels))
    digest = layout.write(args.output, args.name, manifests)
    print(f"{args.name} {digest} {os.path.getsize(args.output)} bytes in {args.output}")


main()
