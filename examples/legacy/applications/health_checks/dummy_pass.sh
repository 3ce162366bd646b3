#!/bin/sh
# A test that passes.
echo "pass"
