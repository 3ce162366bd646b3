#!/usr/bin/env python3
"""Checks that the vLLM server of this container offers the context length that the fleet's file asks for.

Arguments: the container's id, then optionally the port.
"""

import json
import pathlib
import sys
import urllib.request


def settings(ctid):
    """The container's entry in the fleet's file, if that lies beside this script or one folder up."""
    here = pathlib.Path(__file__).resolve().parent
    for folder in (here, here.parent, pathlib.Path("/tmp/phoenix_run")):
        file = folder / "phoenix_lxc_configs.json"
        if file.is_file():
            return json.loads(file.read_text())["lxc_configs"].get(ctid, {})
    return {}


def main():
    ctid = sys.argv[1] if len(sys.argv) > 1 else ""
    entry = settings(ctid)
    port = sys.argv[2] if len(sys.argv) > 2 else entry.get("vllm_port", 8000)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as answer:
        model = json.load(answer)["data"][0]
    offered, wanted = model.get("max_model_len"), entry.get("vllm_max_model_len")
    print(f"{model['id']} offers {offered} tokens" + (f", {wanted} are wanted" if wanted else ""))
    if not isinstance(offered, int) or offered < 1:
        return 1
    return 0 if wanted is None or offered >= wanted else 1


if __name__ == "__main__":
    sys.exit(main())
