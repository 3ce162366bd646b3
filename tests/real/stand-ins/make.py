#!/usr/bin/env python3
"""Writes what the features fetch in tests: make.py FOLDER CACHE.

NVIDIA's runfile, the archives of Ollama and llama.cpp and vLLM's wheel are small stand-ins for the files; the features' own scripts fetch,
verify and install them. The other wheels are the real ones that e2e/node/prepare.sh fetched.
"""

import base64
import hashlib
import io
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

HERE = pathlib.Path(__file__).parent
DRIVER = "570.99.01"


def runfile(folder):
    installer = (HERE / "nvidia-installer.sh").read_text().replace("@VERSION@", DRIVER)
    text = f"""#!/bin/sh
# Stands in for NVIDIA's self-extracting installer.
set -eu
[ "$1" = --extract-only ] && [ "$2" = --target ]
mkdir -p "$3"
cat >"$3/nvidia-installer" <<'INSTALLER'
{installer}INSTALLER
chmod 0755 "$3/nvidia-installer"
"""
    (folder / f"NVIDIA-Linux-x86_64-{DRIVER}.run").write_text(text)


def archive(program, name, pack):
    """An archive with one program in it."""
    data = (HERE / program).read_bytes()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o755
        tar.addfile(entry, io.BytesIO(data))
    return subprocess.run(pack, input=plain.getvalue(), stdout=subprocess.PIPE, check=True).stdout


def wheel(path, name, version, files, program):
    """A wheel by hand: files, metadata, and the list of them with their sums."""
    info = f"{name}-{version}.dist-info"
    files = dict(files)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{program}\n".encode()
    record = ""
    for file, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{file},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(path / f"{name}-{version}-py3-none-any.whl", "w") as out:
        for file, data in files.items():
            out.writestr(file, data)


def index(folder, cache):
    """A package index: a folder a project, as PEP 503 has it."""
    for release in ["bookworm", "trixie"]:
        simple = folder / release / "simple"
        for found in (cache / f"wheels-{release}").glob("*.whl"):
            project = simple / found.name.split("-")[0].lower().replace("_", "-").replace(".", "-")
            project.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, project)
        own = simple / "vllm"
        own.mkdir(parents=True)
        files = {f"vllm/{p.name}": p.read_bytes() for p in sorted((HERE / "vllm").glob("*.py"))}
        wheel(own, "vllm", "0.15.1", files, "vllm = vllm.server:main")


folder, cache = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
runfile(folder)
zstd, gzip = ["zstd", "-q", "-c"], ["gzip", "-n", "-c"]
(folder / "ollama-linux-amd64.tar.zst").write_bytes(archive("ollama", "bin/ollama", zstd))
llamacpp = archive("llama-server", "llama-b7489/llama-server", gzip)
(folder / "llama-b7489-bin-ubuntu-vulkan-x64.tar.gz").write_bytes(llamacpp)
index(folder, cache)
