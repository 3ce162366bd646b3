"""`vllm serve` as far as Phoenix sees it: arguments, journal, /health, /v1/models, completions, embeddings.

Models whose names begin with crash/ end as the real server does when it cannot load: its words, then exit code 1.
"""

import argparse
import http.server
import json
import os
import sys
import threading
import time

CRASHES = {
    "crash/out-of-memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.03 GiB. GPU 0 has a total "
    "capacity of 15.47 GiB of which 1.20 GiB is free.",
    "crash/no-such-model": "OSError: crash/no-such-model is not a local folder and is not a valid model identifier "
    "listed on 'https://huggingface.co/models'",
    "crash/gated": "huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo. Access to model "
    "crash/gated is restricted. You must have access to it and be authenticated to access it.",
    "crash/quantization": "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig: Value error, "
    "Quantization method specified in the model config (awq) does not match the quantization method specified in the "
    "`quantization` argument (gptq).",
}


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    names = []
    loaded = threading.Event()

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self):
        """As vLLM does: whoever asks for anything below /v1 shows the key, if there is one."""
        key = os.environ.get("VLLM_API_KEY")
        shown = self.headers.get("Authorization")
        if key and self.path.startswith("/v1") and shown != f"Bearer {key}":
            self.reply(401, {"error": "Unauthorized"})
            return False
        return True

    def do_GET(self):
        if not self.loaded.is_set():
            self.reply(503, {})
        elif not self.allowed():
            pass
        elif self.path == "/health":
            self.reply(200, {})
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]})
        elif self.path == "/test/arguments":
            self.reply(200, {"argv": sys.argv[1:], "hfHome": os.environ.get("HF_HOME"),
                             "token": os.environ.get("HF_TOKEN"), "pid": os.getpid()})
        else:
            self.reply(404, {})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if not self.allowed():
            return
        if request.get("model") not in self.names:
            self.reply(404, {"error": {"message": f"The model `{request.get('model')}` does not exist."}})
        elif self.path == "/v1/completions":
            self.reply(200, {"choices": [{"text": " echo: " + str(request.get("prompt")), "finish_reason": "length"}]})
        elif self.path == "/v1/chat/completions":
            text = request["messages"][-1]["content"]
            self.reply(200, {"choices": [{"message": {"role": "assistant", "content": "echo: " + text}}]})
        elif self.path == "/v1/embeddings":
            self.reply(200, {"data": [{"embedding": [0.1, 0.2, 0.3], "index": 0}]})
        else:
            self.reply(404, {})

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", nargs="+")
    options, _ = parser.parse_known_args()
    print(f"INFO [api_server.py] vLLM API server version {__import__('vllm').__version__}", flush=True)
    if options.model in CRASHES:
        print(f"ERROR [core.py] {CRASHES[options.model]}", file=sys.stderr, flush=True)
        print("RuntimeError: Engine core initialization failed. See root cause above.", file=sys.stderr, flush=True)
        sys.exit(1)
    Server.names = options.served_model_name or [options.model]
    server = http.server.ThreadingHTTPServer((options.host, options.port), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # A file of the test's holds the loading up, as a download does.
    shard = 0
    while os.path.exists("/run/test-hold-loading") or shard < 4:
        shard = min(shard + 1, 3) if os.path.exists("/run/test-hold-loading") else shard + 1
        print(f"Loading safetensors checkpoint shards:  {shard * 25}% Completed | {shard}/4 [00:01<00:01,  1.00s/it]",
              file=sys.stderr, flush=True)
        time.sleep(0.2)
    Server.loaded.set()
    print("INFO:     Application startup complete.", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
