#!/bin/sh
# The driver vfs copies every layer in full: it works, but nobody wants it.
set -eu
driver=$(docker info --format '{{.Driver}}')
echo "storage driver: $driver"
[ "$driver" != vfs ]
