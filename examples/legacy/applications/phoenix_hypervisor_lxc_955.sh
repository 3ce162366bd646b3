#!/bin/sh
# Lets Ollama keep its models in the shared directory /ollama_models, where the node provides it.
set -eu
systemctl cat ollama.service > /dev/null 2>&1 || { echo "Ollama is not installed: the container needs the feature ollama" >&2; exit 1; }

if mountpoint -q /ollama_models && runuser -u ollama -- test -w /ollama_models; then
    mkdir -p /etc/systemd/system/ollama.service.d
    printf '[Service]\nEnvironment=OLLAMA_MODELS=/ollama_models\n' > /etc/systemd/system/ollama.service.d/models.conf
    systemctl daemon-reload
    systemctl restart ollama.service
    echo "models are kept in /ollama_models"
else
    echo "/ollama_models is not mounted or not writable for the user ollama: models stay where they are"
fi
curl -sS --fail --retry 30 --retry-delay 1 --retry-all-errors http://127.0.0.1:11434/api/version
echo
