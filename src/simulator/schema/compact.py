#!/usr/bin/env python3
"""Makes methods.json from a full Proxmox VE API description.

Usage: compact.py api.json > methods.json

The input maps paths to HTTP methods to their description (parameters, permissions, allowtoken, returns, ...).
Texts for people and result types are left out. Methods outside KEPT keep only what the order of checks needs, so
that a call for them is told apart from an unknown path.
"""
import json
import sys

KEPT = (
    "/access", "/cluster/nextid", "/cluster/options", "/cluster/resources", "/cluster/status", "/cluster/tasks",
    "/cluster/log", "/nodes/{node}/lxc", "/nodes/{node}/qemu", "/nodes/{node}/storage", "/nodes/{node}/tasks",
    "/nodes/{node}/aplinfo", "/nodes/{node}/query-oci-repo-tags", "/nodes/{node}/status", "/nodes/{node}/version", "/nodes/{node}/startall",
    "/nodes/{node}/stopall", "/nodes/{node}/network", "/nodes/{node}/apt", "/nodes/{node}/query-url-metadata",
    "/nodes/{node}/vzdump", "/cluster/mapping", "/nodes/{node}/hardware", "/nodes/{node}/config",
    "/pools", "/storage", "/version",
)
DROPPED = ("/ceph", "/remote_migrate", "/mtunnel", "/openid", "/tfa")
PROPERTY = (
    "type", "format", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "optional", "requires",
    "default_key", "alias", "keyAlias", "items", "default",
)
NAMES = ("subdir", "name", "id", "cmd")
# Keys of mount points that came after the description was written.
RANGE = "[ug]:[0-9]+:[0-9]+:[1-9][0-9]*"
IDMAP = {"type": "string", "optional": 1, "pattern": f"(?:passthrough|{RANGE}(?:;{RANGE})*)"}
MOUNTS = (("/nodes/{node}/lxc", "POST"), ("/nodes/{node}/lxc/{vmid}/config", "PUT"))


def prop(source):
    out = {}
    for key in PROPERTY:
        if key not in source:
            continue
        value = source[key]
        if key == "format" and isinstance(value, dict):
            value = {name: prop(child) for name, child in sorted(value.items())}
        if key == "items":
            value = prop(value)
        if key in ("minimum", "maximum"):
            value = float(value)
            value = int(value) if value == int(value) else value
        out[key] = value
    return out


def index_key(path, api):
    returns = api[path]["GET"].get("returns", {})
    items = returns.get("items", {}).get("properties", {})
    children = any(other.startswith(path.rstrip("/") + "/") for other in api)
    if returns.get("type") == "array" and children and len(items) <= 1:
        names = [name for name in NAMES if name in items]
        return names[0] if names else ("subdir" if not items else None)
    return None


def main():
    api = json.load(open(sys.argv[1]))
    out = {}
    for path, methods in sorted(api.items()):
        full = path.startswith(KEPT) and not any(word in path for word in DROPPED)
        for name, method in sorted(methods.items()):
            entry = {}
            permissions = dict(method.get("permissions") or {})
            permissions.pop("description", None)
            if method.get("permissions") is not None:
                entry["permissions"] = permissions
            if not method.get("allowtoken", 1):
                entry["allowtoken"] = 0
            if method.get("proxyto") == "node" or method.get("protected"):
                entry["proxy"] = 1
            if name == "GET":
                key = index_key(path, api)
                if key:
                    entry["index"] = key
            if full:
                source = method.get("parameters", {}).get("properties", {})
                entry["properties"] = {key: prop(value) for key, value in sorted(source.items())}
                if method.get("parameters", {}).get("additionalProperties"):
                    entry["additional"] = 1
            out.setdefault(path, {})[name] = entry
    for path, name in MOUNTS:
        for mount in ("rootfs", "mp[n]"):
            out[path][name]["properties"][mount]["format"]["idmap"] = IDMAP
    rows = [json.dumps(path) + ":" + json.dumps(methods, separators=(",", ":")) for path, methods in out.items()]
    print("{" + ",\n".join(rows) + "}")


main()
