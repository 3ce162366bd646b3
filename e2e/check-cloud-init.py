#!/usr/bin/env python3
"""Asks the real cloud-init about files of user-data and vendor-data, many in one process, as each start costs a second.

  PYTHONPATH=$(e2e/install-cloud-init.sh) e2e/check-cloud-init.py FOLDER

Every file of the folder is taken apart as cloud-init does it on a machine, and each cloud-config in it, and what
cloud-init merges them to, is given to `cloud-init schema --config-file`. Prints a JSON object with an entry a file:

  parts     type and text of each part
  verdicts  name, exit code and words of the command for each part of cloud-config and for `merged`
  merged    what the parts of cloud-config come to
"""

import contextlib
import functools
import io
import json
import logging
import os
import sys
import tempfile

from cloudinit import handlers, helpers, safeyaml, user_data
from cloudinit.cmd import main as command
from cloudinit.config import schema
from cloudinit.handlers.cloud_config import CloudConfigPartHandler

# Read from disk at each call otherwise.
schema.get_schema = functools.lru_cache(schema.get_schema)


def verdict(name, path):
    words = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        try:
            code = command.main(["cloud-init", "schema", "--config-file", path])
        except SystemExit as end:
            code = end.code
    return {"name": name, "code": code or 0, "words": words.getvalue().replace(path, name)}


def look(path, work):
    with open(path, "rb") as file:
        data = file.read()
    paths = helpers.Paths({"cloud_dir": work})
    message = user_data.UserDataProcessor(paths).process(data)
    handler = CloudConfigPartHandler(paths)
    handler.cloud_fn = os.path.join(work, "merged")
    handler.handle_part(None, handlers.CONTENT_START, None, None, None, None)
    answer = {"parts": [], "verdicts": [], "merged": None}
    for part in message.walk():
        if part.get_content_maintype() == "multipart":
            continue
        text = part.get_payload(decode=True).decode()
        kind = part.get_content_type()
        answer["parts"].append({"type": kind, "text": text})
        if kind != "text/cloud-config":
            continue
        name = "part %d" % len(answer["parts"])
        file = os.path.join(work, "part")
        with open(file, "w") as out:
            out.write(text)
        answer["verdicts"].append(verdict(name, file))
        handler.handle_part(None, kind, name, text, None, part)
    merged = handler.cloud_buf
    if merged is not None:
        handler.handle_part(None, handlers.CONTENT_END, None, None, None, None)
        answer["merged"] = merged
        # How parts are merged is no part of what they say.
        rest = {key: value for key, value in merged.items() if key not in ("merge_how", "merge_type")}
        with open(handler.cloud_fn, "w") as out:
            out.write("#cloud-config\n" + safeyaml.dumps(rest))
        answer["verdicts"].append(verdict("merged", handler.cloud_fn))
    return answer


def main(folder):
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as work:
        answers = {name: look(os.path.join(folder, name), work) for name in sorted(os.listdir(folder))}
    json.dump(answers, sys.stdout)


main(sys.argv[1])
