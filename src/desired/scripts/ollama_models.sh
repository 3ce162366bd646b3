#!/bin/sh
# Pulls the models of /etc/phoenix/ollama-models.list that the server lacks, then lets the first one answer. What it says
# last is what the probe tells.
set -eu
base=@BASE@ list=/etc/phoenix/ollama-models.list
ask() { curl -gsS --noproxy '*' "$@"; }

tries=0
until ask --max-time 5 -o /dev/null "$base/api/version" 2> /dev/null; do
  tries=$((tries + 1))
  [ "$tries" -lt 120 ] || { echo "error: no answer at $base" && exit 1; }
  sleep 1
done
start=$(systemctl show ollama.service -p InvocationID)

# The server says how far it is many times a second: every twentieth part is told. In the shell: awk may keep lines back.
number() { number=${line#*"\"$1\":"} number=${number%%[!0-9]*}; }
progress() {
  told=
  while read -r line; do
    case $line in
      *'"error":"'*)
        line=${line#*'"error":"'}
        echo "error: $1: ${line%%'"}'*}"
        return 1
        ;;
      *'"status":"success"'*) return 0 ;;
      *'"total":'*'"completed":'*)
        number total
        total=$number
        number completed
        [ "${total:-0}" -gt 0 ] || continue
        part=$((${number:-0} * 20 / total * 5))
        [ "$part" = "$told" ] || echo "pulling $1: $part % of $((total / 1000000)) MB"
        told=$part
        ;;
    esac
  done
  echo "error: $1: the server ended the download"
  return 1
}
first=
while read -r model; do
  [ -n "$first" ] || first=$model
  found=$(ask --max-time 30 -o /dev/null -w '%{http_code}' --data-binary "{\"model\": \"$model\"}" "$base/api/show")
  [ "$found" != 200 ] || continue
  echo "pulling $model"
  ask -N --data-binary "{\"model\": \"$model\"}" "$base/api/pull" 2>&1 | progress "$model"
done < "$list"

echo "loading $first"
answer=$(ask --max-time 1800 -H 'Content-Type: application/json' \
  --data-binary "{\"model\": \"$first\", \"prompt\": \"Hello\", \"max_tokens\": 1}" "$base/v1/completions" 2>&1) || true
case $answer in
  *'"choices"'*) ;;
  *'does not support'*)
    # A model for embeddings.
    answer=$(ask --max-time 1800 -H 'Content-Type: application/json' \
      --data-binary "{\"model\": \"$first\", \"input\": \"hello\"}" "$base/v1/embeddings" 2>&1) || true
    ;;
esac
case $answer in
  *'"choices"'* | *'"embedding"'*) ;;
  *)
    echo "error: $first does not answer: $(printf %s "$answer" | tr '\n' ' ' | cut -c 1-160)"
    exit 1
    ;;
esac
mkdir -p /run/phoenix
printf '%s %s' "$start" "$first" > /run/phoenix/ollama.completed
echo "$first answers"
