#!/usr/bin/env python3
"""The only way out of a test node's containers: an HTTP proxy on a Unix socket that keeps what it fetched.

Packages are fetched once for all runs; the indexes of archives are asked for again after an hour, and taken from the
cache where the network is not there. http://files.test/ is a folder of the test's own, with pages of links where a
folder is asked for. Encrypted connections are refused: a feature that needs one has to be told of a mirror.

Every request is a line in the log: method, URL, status, where it came from.
"""

import argparse
import hashlib
import html
import http.server
import os
import socketserver
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

FRESH_SECONDS = 3600
KEPT_SECONDS = 30 * 24 * 3600


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    options = None
    locks = {}
    guard = threading.Lock()

    def do_CONNECT(self):
        self.answer(403, b"this node lets no encrypted connection out\n", "refused")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if url.scheme != "http":
            self.answer(400, b"only http://\n", "refused")
        elif url.hostname == "files.test":
            self.own_file(urllib.parse.unquote(url.path))
        else:
            with self.lock_of(self.path):
                self.fetched()

    def lock_of(self, url):
        with self.guard:
            return self.locks.setdefault(url, threading.Lock())

    def own_file(self, path):
        root = os.path.realpath(self.options.files)
        # An index asks for names as PEP 503 writes them; folders are named so.
        target = os.path.realpath(os.path.join(root, path.lstrip("/")))
        if target != root and not target.startswith(root + "/"):
            self.answer(403, b"", "refused")
        elif os.path.isdir(target):
            names = sorted(os.listdir(target))
            links = "".join(f'<a href="{urllib.parse.quote(n)}">{html.escape(n)}</a><br>\n' for n in names)
            self.answer(200, f"<!DOCTYPE html><html><body>\n{links}</body></html>\n".encode(), "own", "text/html")
        elif os.path.isfile(target):
            with open(target, "rb") as file:
                self.answer(200, file.read(), "own")
        else:
            self.answer(404, b"no such file\n", "own")

    def fetched(self):
        cached = os.path.join(self.options.cache, hashlib.sha256(self.path.encode()).hexdigest())
        age = time.time() - os.path.getmtime(cached) if os.path.exists(cached) else None
        lasting = "/pool/" in self.path or "/by-hash/" in self.path
        if age is not None and (lasting or age < FRESH_SECONDS):
            if lasting and age > 24 * 3600:
                os.utime(cached)
            self.from_cache(cached)
            return
        try:
            with urllib.request.urlopen(self.path, timeout=30) as reply:
                body = reply.read()
        except urllib.error.HTTPError as error:
            self.answer(error.code, b"", "network")
            return
        except OSError as error:
            if age is not None:
                self.from_cache(cached)
            else:
                self.answer(502, f"cannot fetch: {error}\n".encode(), "network")
            return
        beside = f"{cached}.{os.getpid()}.{threading.get_ident()}"
        with open(beside, "wb") as file:
            file.write(body)
        os.replace(beside, cached)
        self.answer(200, body, "network")

    def from_cache(self, cached):
        with open(cached, "rb") as file:
            self.answer(200, file.read(), "cache")

    def answer(self, status, body, source, kind="application/octet-stream"):
        with self.guard, open(self.options.log, "a", encoding="utf-8") as log:
            log.write(f"{self.command} {self.path} {status} {source}\n")
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def address_string(self):
        return "container"

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["socket", "cache", "files", "log"]:
        parser.add_argument(f"--{name}", required=True)
    Proxy.options = parser.parse_args()
    os.makedirs(Proxy.options.cache, exist_ok=True)
    for entry in os.scandir(Proxy.options.cache):
        if time.time() - entry.stat().st_mtime > KEPT_SECONDS:
            os.unlink(entry.path)
    if os.path.exists(Proxy.options.socket):
        os.unlink(Proxy.options.socket)
    Server(Proxy.options.socket, Proxy).serve_forever()


if __name__ == "__main__":
    main()
