#!/bin/sh
# A test that fails, on purpose: it shows up in TestsPassed and blocks nothing.
echo "fail, as intended" >&2
exit 1
