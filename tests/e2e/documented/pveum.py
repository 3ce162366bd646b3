#!/usr/bin/env python3
"""`pveum` as far as the documentation uses it, on the API of the simulator that SIMULATOR describes."""

import json
import os
import ssl
import sys
import urllib.parse
import urllib.request

about = json.load(open(os.environ["SIMULATOR"]))
context = ssl.create_default_context(cadata=about["caPem"])


def call(method, path, data, headers={}):
    url = f"{about['apiUrl']}/api2/json{path}"
    body = None if data is None else urllib.parse.urlencode(data).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/x-www-form-urlencoded", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        sys.exit(f"pveum {' '.join(sys.argv[1:])}: {error} {error.read().decode()}")


def options(words):
    return {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2])}


ticket = call("POST", "/access/ticket", {"username": about["rootUser"], "password": about["rootPassword"]})
root = {"cookie": f"PVEAuthCookie={ticket['ticket']}", "csrfpreventiontoken": ticket["CSRFPreventionToken"]}
match sys.argv[1:]:
    case ["user", "add", user, *rest]:
        # The simulator comes with this user and these roles, the reader's Proxmox VE does not.
        call("DELETE", f"/access/users/{urllib.parse.quote(user, safe='')}", {}, root)
        call("POST", "/access/users", {"userid": user, **options(rest)}, root)
    case ["role", "add", role, *rest]:
        if role in [known["roleid"] for known in call("GET", "/access/roles", None, root)]:
            call("DELETE", f"/access/roles/{role}", {}, root)
        call("POST", "/access/roles", {"roleid": role, **options(rest)}, root)
    case ["acl", "modify", path, *rest]:
        call("PUT", "/access/acl", {"path": path, **options(rest)}, root)
    case ["user", "token", "add", user, name, *rest]:
        given = options(rest)
        given.pop("output-format", None)
        user = urllib.parse.quote(user, safe="")
        print(json.dumps(call("POST", f"/access/users/{user}/token/{name}", given, root)))
    case words:
        sys.exit(f"pveum: {words} is not known here")
