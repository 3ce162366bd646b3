#!/bin/sh
# Lets the pauses before vllm.service is started again grow: 10 seconds of RestartSec= and what is slept here, together
# 10, 20, 40, 80, 160 and then 300 seconds. They begin anew for a server that ran for ten minutes, and for one that
# somebody started. systemd's own RestartSteps= needs version 254, and never begins anew.
set -eu
state=/run/phoenix/vllm.starts
up() { cut -d. -f1 /proc/uptime; }

# Automatic restarts so far; one that somebody asked for does not count up.
restarts=$(systemctl show vllm.service -p NRestarts)
restarts=${restarts#NRestarts=}
last=0 begun=0 forgiven=0
if [ -f "$state" ]; then read -r last begun forgiven < "$state"; fi
started() { echo "$restarts $(up) $forgiven" > "$state"; }
if [ "$restarts" -le "$last" ]; then
  forgiven=$restarts
elif [ $(($(up) - begun)) -ge 600 ]; then
  forgiven=$((restarts - 1))
fi

pause=0 left=$((restarts - forgiven))
while [ "$left" -gt 1 ] && [ "$pause" -lt 290 ]; do pause=$((pause * 2 + 10)) left=$((left - 1)); done
[ "$pause" -le 290 ] || pause=290
mkdir -p /run/phoenix
started
if [ "$pause" -gt 0 ]; then
  echo "vllm.service ended $((restarts - forgiven)) times: started in $pause seconds, or now with systemctl restart vllm.service"
  sleep "$pause"
  started
fi
