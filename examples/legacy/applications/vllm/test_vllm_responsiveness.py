#!/usr/bin/env python3
"""Asks the vLLM server of this container for one short answer (or embedding) and prints how long it took.

Arguments: the container's id, then optionally the port. Exit code 0 when the server answered with content.
"""

import json
import pathlib
import sys
import time
import urllib.request


def settings(ctid):
    """The container's entry in the fleet's file, if that lies beside this script or one folder up."""
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here, here.parent, pathlib.Path("/tmp/phoenix_run")):
        file = folder / "phoenix_lxc_configs.json"
        if file.is_file():
            return json.loads(file.read_text())["lxc_configs"].get(ctid, {})
    return {}


def call(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def main():
    ctid = sys.argv[1] if len(sys.argv) > 1 else ""
    entry = settings(ctid)
    port = sys.argv[2] if len(sys.argv) > 2 else entry.get("vllm_port", 8000)
    base = f"http://127.0.0.1:{port}/v1"
    model = call(f"{base}/models")["data"][0]["id"]
    start = time.monotonic()
    if entry.get("vllm_model_type") == "embedding":
        vector = call(f"{base}/embeddings", {"model": model, "input": "phoenix"})["data"][0]["embedding"]
        result, good = f"a vector of {len(vector)} numbers", len(vector) > 0
    else:
        body = {"model": model, "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 8}
        text = call(f"{base}/chat/completions", body)["choices"][0]["message"]["content"]
        result, good = repr(text), bool(text and text.strip())
    print(f"{model} answered {result} after {time.monotonic() - start:.2f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
