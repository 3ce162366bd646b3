#!/bin/sh
# Runs the two vLLM tests one after the other. Argument: the container's id.
set -eu
ctid=${1:-}
here=$(cd "$(dirname "$0")" && pwd)
failed=0
for test in test_vllm_responsiveness.py test_vllm_context_window.py; do
    file=$here/vllm/$test
    [ -f "$file" ] || file=$here/$test
    if [ ! -f "$file" ]; then
        echo "FAIL $test: not beside this script" >&2
        failed=1
    elif python3 "$file" "$ctid"; then
        echo "PASS $test"
    else
        echo "FAIL $test" >&2
        failed=1
    fi
done
exit "$failed"
