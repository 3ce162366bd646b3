# Whether a vLLM or llama.cpp server serves: /health, then /v1/models names the model, then, once for each start of the server, one
# real completion or embedding. Otherwise says how far loading is, or why the server ends again and again, as
# "REASON: words". Arguments: port, name of the model, chat or embedding, the unit, the address if it is not 127.0.0.1.
port=$1 model=$2 kind=$3 unit=$4
base=http://${5:-127.0.0.1}:$port

command -v curl > /dev/null 2>&1 || {
  echo "curl is needed to ask the server: add the feature base-setup"
  exit 2
}
# The key goes to curl on its standard input: arguments can be seen by every process.
name=${unit%.service}
key=$(sed -n 's/^[A-Z]*_API_KEY="\(.*\)"$/\1/p' "/etc/phoenix/$name.env" 2> /dev/null | tail -n 1)
ask() {
  if [ -n "$key" ]; then
    printf 'header = "Authorization: Bearer %s"\n' "$key" | curl -K - -gsS --noproxy '*' --max-time "$@"
  else
    curl -gsS --noproxy '*' --max-time "$@"
  fi
}
# What an earlier version of the unit said counts no more.
since=$(stat -c %.6Y "/etc/systemd/system/$unit" 2> /dev/null || echo 0)
words() { journalctl -u "$unit" --since "@$since" -n 400 -o cat --no-pager 2> /dev/null; }
# Without the names of process and source file that vLLM begins its lines with.
plain() { sed 's/^([^)]*pid=[0-9]*) *//; s/^[A-Z]* [-0-9]* [:0-9]* \[[^]]*\] //'; }
escaped() { printf %s "$1" | sed 's/["\\]/\\&/g'; }

# The journal's last line that tells what ended the server, and what to do about it.
explain() {
  line=$(printf '%s\n' "$said" | grep -oE ".{0,40}($1).{0,80}" | tail -n 1)
  [ -n "$line" ] || return 1
  echo "ModelServerFailed: $2 ($line)"
}
# Words of vLLM 0.15 and its libraries; tests/scripts/vllm.rs has their lines. Those of a model's absence come behind
# those of a missing token or network where vLLM says them of either.
failed_vllm() {
  # That the engine did not start says nothing of why.
  said=$(words | tr -d '\r' | plain | grep -v 'Engine core initialization failed')
  explain 'CUDA out of memory|CUDA error: out of memory|OutOfMemoryError|No available memory for the cache blocks|larger than the available KV cache memory' \
    "the GPU's memory does not suffice: lower maxModelLen, raise gpuMemoryUtilization where the GPU has more, choose a smaller or quantized model, or free the GPU" ||
  explain 'less than desired GPU memory utilization' \
    "the GPU's memory is used by others: lower gpuMemoryUtilization, or free the GPU" ||
  explain 'greater than the derived max_model_len' 'the model has no such long context: lower maxModelLen to what the model allows' ||
  explain 'World size .* is larger than the number of available GPUs|must be divisible by tensor parallel size' \
    'tensorParallelSize does not fit the GPUs or the model: correct it' ||
  explain 'is not a valid model identifier|Repository Not Found for url|RepositoryNotFoundError|Repo id must' \
    'there is no such model, or it is private: correct model, or set tokenSecretRef' ||
  explain 'GatedRepoError|gated repo|401 Client Error|403 Client Error' \
    'the model may only be read with a token: set tokenSecretRef, and accept the terms of the model with that account' ||
  explain 'pass the argument .trust_remote_code=True' \
    'the model brings code of its own: set trustRemoteCode if you trust it, or choose another model' ||
  explain '[Qq]uantization method.*(does not match|not supported)|Unknown quantization method|is not supported for quantization|quantization is currently not supported|allow-deprecated-quantization' \
    'quantization does not fit the model or the GPU: leave it out or correct it' ||
  explain 'unrecognized arguments|invalid choice:|expected (at least )?one argument|invalid .* value:|ambiguous option:|ignored explicit argument' \
    'vLLM does not know an argument: correct the vllm block or extraArgs' ||
  explain 'Failed to infer device type|No CUDA GPUs are available|NVIDIA driver on your system is too old|Found no NVIDIA driver' \
    'no GPU can be used: give the container one with gpus, and the feature nvidia' ||
  explain "ConnectionError|Max retries exceeded|Temporary failure in name resolution|Network is unreachable|couldn't connect to|LocalEntryNotFoundError" \
    'the model cannot be fetched: check network and proxy, or put it below cachePath' ||
  explain 'Invalid repository ID or local directory|does not appear to have a file named config.json' \
    'there is no such model: correct model' ||
  explain 'No space left on device' 'the disk is full: grow the volume of cachePath' ||
  explain 'Address already in use' "something else listens on port $port: choose another port" ||
  explain '(Error|Exception): ' 'the server ends by itself'
}
# Words of llama.cpp's common/, src/ and ggml/.
failed_llamacpp() {
  said=$(words | tr -d '\r')
  explain "error while handling argument|error: invalid argument|error: unknown argument|error: invalid parameter" \
    'llama.cpp does not know an argument: correct the llamacpp block or extraArgs' ||
    explain 'out of memory|OutOfDeviceMemory|failed to allocate|unable to allocate' \
      "memory does not suffice: lower contextSize or gpuLayers, choose a smaller model, or free the GPU" ||
    explain 'unknown model architecture|unknown pre-tokenizer type' \
      'the model needs a newer llama.cpp: set version of the feature llamacpp' ||
    explain 'No space left on device|disk full' 'the disk is full: grow the volume of cachePath' ||
    explain 'status(_code)?[ :=]+40[13]|Unauthorized|gated' \
      'the model may only be read with a token: set tokenSecretRef, and accept the terms of the model with that account' ||
    explain 'status(_code)?[ :=]+404|no GGUF files found|not found on (the )?[Hh]ugging' 'there is no such model, or no such quantization of it: correct model' ||
    explain 'failed to open GGUF file|No such file or directory|invalid magic|failed to read magic' 'model is no GGUF file: correct the path' ||
    explain "Could not (establish connection|resolve)|curl_easy_perform|failed to (download|get manifest)|HTTPLIB|connection error" \
      'the model cannot be fetched: check network and proxy, or put it on a volume and give its path' ||
    explain "couldn't bind HTTP server socket|[Aa]ddress already in use" "something else listens on port $port: choose another port" ||
    explain 'error while loading shared libraries' 'the program does not fit the guest: install the feature llamacpp anew' ||
    explain 'error(: | loading )' 'the server ends by itself'
}
failed() {
  "failed_$name" || echo "ModelServerFailed: $unit ends by itself: see journalctl -u $unit in the container"
}
# How far loading is. Progress bars are one line each in the journal, parts of them separated by carriage returns. While it
# downloads, vLLM says nothing after "Starting to load model".
at_vllm() {
  grep -E 'Starting to load model|[Ll]oading .*(shards|weights|took)|[Dd]ownload|[Ff]etching [0-9]+ files|KV cache memory|Capturing|Graph capturing|torch.compile|Compiling a graph'
}
at_llamacpp() { grep -E '[Dd]ownload|loading model|load_tensors: |warming up'; }


health=$(ask 5 -o /dev/null -w '%{http_code}' "$base/health" 2> /dev/null)
if [ "$health" != 200 ]; then
  state=$(systemctl show "$unit" -p ActiveState -p SubState -p NRestarts 2> /dev/null)
  restarts=$(printf '%s\n' "$state" | sed -n 's/^NRestarts=//p')
  case $state in
    *SubState=auto-restart* | *ActiveState=failed*)
      failed
      exit 1
      ;;
    *ActiveState=active* | *ActiveState=activating*) ;;
    *)
      echo "ModelServerFailed: $unit is not started: systemctl start $unit"
      exit 1
      ;;
  esac
  if [ "${restarts:-0}" -gt 0 ]; then
    failed
    exit 1
  fi
  # Bars and times are left out.
  at=$(words | plain | tr '\r' '\n' | "at_$name" | tail -n 1 | sed 's/%|[^|]*|/%/; s/ *\[[0-9][0-9]:.*//' | cut -c 1-120)
  echo "ModelLoading: the server loads its model${at:+: $at}"
  exit 1
fi
models=$(ask 10 "$base/v1/models" 2>&1)
case $(printf %s "$models" | tr -d ' ') in
  *"\"id\":\"$(escaped "$model" | tr -d ' ')\""*) ;;
  *)
    echo "the server does not list the model $model: $(printf %s "$models" | cut -c 1-120)"
    exit 1
    ;;
esac
# What the server counts, in one line; nothing where it counts nothing, as llama.cpp without --metrics.
readings() {
  ask 5 "$base/metrics" 2> /dev/null | awk '
    BEGIN {
      field["vllm:num_requests_running"] = field["llamacpp:requests_processing"] = "running"
      field["vllm:num_requests_waiting"] = field["llamacpp:requests_deferred"] = "waiting"
      field["vllm:kv_cache_usage_perc"] = field["vllm:gpu_cache_usage_perc"] = field["llamacpp:kv_cache_usage_ratio"] = "cache"
      field["vllm:prompt_tokens_total"] = field["llamacpp:prompt_tokens_total"] = "prompt"
      field["vllm:generation_tokens_total"] = field["llamacpp:tokens_predicted_total"] = "generated"
    }
    { name = $1; sub(/[{].*/, "", name) }
    name in field { sum[field[name]] += $NF * (field[name] == "cache" ? 1000 : 1) }
    END {
      for (name in sum) line = line " " name "=" sprintf("%.0f", sum[name])
      if (line != "") print "readings" line
    }'
}
start=$(systemctl show "$unit" -p InvocationID 2> /dev/null)
proof=/run/phoenix/$name.completed
if [ "$(cat "$proof" 2> /dev/null)" = "$start $port $model" ]; then
  readings
  exit 0
fi
quoted=$(escaped "$model")
if [ "$kind" = embedding ]; then
  path=/v1/embeddings body="{\"model\": \"$quoted\", \"input\": \"hello\"}" wanted='"embedding"'
else
  path=/v1/completions body="{\"model\": \"$quoted\", \"prompt\": \"Hello\", \"max_tokens\": 1}" wanted='"choices"'
fi
answer=$(ask 40 -H 'Content-Type: application/json' --data-binary "$body" "$base$path" 2>&1)
case $answer in
  *"$wanted"*) ;;
  *)
    echo "the server does not answer $path: $(printf %s "$answer" | cut -c 1-160)"
    exit 1
    ;;
esac
mkdir -p /run/phoenix && printf '%s' "$start $port $model" > "$proof"
readings
