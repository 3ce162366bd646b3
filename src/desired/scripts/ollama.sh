[ -x /opt/ollama/bin/ollama ] && [ -f /etc/systemd/system/ollama.service ] ||
  die "/opt/ollama/bin/ollama is not there: install the feature ollama"
path=${PHOENIX_OLLAMA_MODELS_PATH:-}
if [ -n "$path" ]; then
  mkdir -p -- "$path"
  # A directory of the node may refuse a new owner; then it must be writable as it is.
  chown ollama:ollama -- "$path" 2> /dev/null || true
  runuser -u ollama -- test -w "$path" ||
    die "the user ollama (uid $(id -u ollama)) cannot write to $path: change its owner on the node or use a volume"
fi
mkdir -p /etc/phoenix /etc/systemd/system/ollama.service.d
put ollama.env /etc/phoenix/ollama.env 0600
put 50-phoenix.conf /etc/systemd/system/ollama.service.d/50-phoenix.conf 0644
server=$changed
put ollama-models /etc/phoenix/ollama-models 0644
put ollama-models.list /etc/phoenix/ollama-models.list 0644
put ollama-models.service /etc/systemd/system/ollama-models.service 0644
rm -f "$from/ollama.env"
systemctl daemon-reload
systemctl enable --quiet ollama.service ollama-models.service
# Not waited for: pulling models may take hours. Its unit stops and starts with the server's.
if [ -n "$server" ]; then
  systemctl restart ollama.service
elif [ -n "$changed" ]; then
  systemctl start ollama.service
  systemctl restart --no-block ollama-models.service
else
  systemctl start --no-block ollama.service ollama-models.service
fi
echo "ollama: ollama.service is started"
