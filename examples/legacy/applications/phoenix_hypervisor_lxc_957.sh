#!/bin/sh
# Writes the unit of a llama.cpp server on port 8081. Neither the program nor a model is part of this example: the unit
# starts as soon as /usr/local/bin/llama-server and /llamacpp_models/model.gguf are there.
set -eu
cat > /etc/systemd/system/llamacpp.service <<'UNIT'
[Unit]
Description=llama.cpp server
Wants=network-online.target
After=network-online.target
ConditionPathExists=/usr/local/bin/llama-server
ConditionPathExists=/llamacpp_models/model.gguf

[Service]
ExecStart=/usr/local/bin/llama-server --host 0.0.0.0 --port 8081 --model /llamacpp_models/model.gguf --n-gpu-layers 99
Restart=on-failure
RestartSec=10

[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet llamacpp.service
for file in /usr/local/bin/llama-server /llamacpp_models/model.gguf; do
    [ -e "$file" ] || echo "$file is missing: llamacpp.service waits for it"
done
systemctl restart llamacpp.service
