#!/bin/sh
# Does a container run to its end and print what it should?
set -eu
docker run --rm hello-world | grep 'Hello from Docker'
