# Whether an Ollama server serves: it answers, has every model, and the first one has answered since the server was
# started, which ollama-models.service sees to. Otherwise says how far that is, or what it failed of, as "REASON: words".
# Arguments: the server's URL, the models.
base=$1
shift
command -v curl > /dev/null 2>&1 || {
  echo "curl is needed to ask the server: add the feature base-setup"
  exit 2
}
ask() { curl -gsS --noproxy '*' --max-time 10 "$@"; }
state() { systemctl show "$1" -p ActiveState -p SubState 2> /dev/null; }
said() { journalctl -u "$1" -n 20 -o cat --no-pager 2> /dev/null; }

explain() {
  case $line in
    *"$1"*) echo "ModelServerFailed: $2 (${line#error: })" ;;
    *) return 1 ;;
  esac
}
# Words of Ollama 0.32; the first that fits counts.
failed() {
  line=$(said ollama-models.service | grep '^error: ' | tail -n 1 | cut -c 1-200)
  for words in 'file does not exist' 'not found'; do
    explain "$words" 'there is no such model: correct models, or take out what begins with a registry that is not reached' && return
  done
  explain 'no space left' 'the disk is full: grow the volume of modelsPath' && return
  for words in 'requires more system memory' 'out of memory' 'cudaMalloc failed' 'unable to allocate'; do
    explain "$words" 'memory does not suffice: choose a smaller model, lower contextLength, or free the GPU' && return
  done
  for words in 'dial tcp' 'no such host' 'i/o timeout' 'max retries exceeded' 'TLS handshake' 'proxyconnect' 'connection re'; do
    explain "$words" 'the model cannot be fetched: check network and proxy' && return
  done
  explain 'newer version of Ollama' 'the model needs a newer Ollama: set version of the feature ollama' && return
  echo "ModelServerFailed: ${line:-error: ollama-models.service failed: see journalctl -u ollama-models.service in the container}"
}

if ! ask -o /dev/null "$base/api/version" 2> /dev/null; then
  case $(state ollama.service) in
    *SubState=auto-restart* | *ActiveState=failed*)
      line=$(said ollama.service | grep -E '[Ee]rror' | tail -n 1 | cut -c 1-200)
      explain 'address already in use' 'something else listens on its port: choose another port' ||
        echo "ModelServerFailed: ollama.service ends by itself (${line:-it says nothing}): see journalctl -u ollama.service in the container"
      ;;
    *ActiveState=active* | *ActiveState=activating*) echo "ModelLoading: the server starts" ;;
    *) echo "ModelServerFailed: ollama.service is not started: systemctl start ollama.service" ;;
  esac
  exit 1
fi
start=$(systemctl show ollama.service -p InvocationID 2> /dev/null)
if [ "$(cat /run/phoenix/ollama.completed 2> /dev/null)" != "$start $1" ]; then
  case $(state ollama-models.service) in
    *SubState=auto-restart* | *ActiveState=failed*) failed ;;
    *ActiveState=active* | *ActiveState=activating*) echo "ModelLoading: $(said ollama-models.service | tail -n 1 | cut -c 1-120)" ;;
    *) echo "ModelServerFailed: ollama-models.service is not started: systemctl start ollama-models.service" ;;
  esac
  exit 1
fi
for model; do
  found=$(ask -o /dev/null -w '%{http_code}' --data-binary "{\"model\": \"$model\"}" "$base/api/show" 2> /dev/null)
  [ "$found" = 200 ] || {
    case $(state ollama-models.service) in
      *SubState=auto-restart* | *ActiveState=failed*) failed ;;
      *ActiveState=activating*) echo "ModelLoading: $(said ollama-models.service | tail -n 1 | cut -c 1-120)" ;;
      *) echo "ModelServerFailed: $model is not there any more: systemctl restart ollama-models.service" ;;
    esac
    exit 1
  }
done
