#!/bin/bash
# The figures of the paper on several machines, by GNU parallel and ssh. From the top of a checkout that each
# of them has at the same path:
#
#     eval/experiments/parallel.sh HOSTS [FLAGS of cargo paper run]
#     cargo paper merge results/all results/share-*
#
# HOSTS is a file with a machine a line, as `parallel --sshloginfile` takes it (`:` is this one). Results come
# back into this checkout.
set -euo pipefail
[ $# -ge 1 ] && [ -f "$1" ] || { echo "usage: $0 HOSTS [FLAGS]; HOSTS is a file with a machine a line" >&2; exit 2; }
hosts=$1
shift
of=$(grep -c -v -E '^[[:space:]]*(#|$)' "$hosts") || { echo "$hosts names no machine" >&2; exit 2; }
command -v parallel > /dev/null || { echo "there is no GNU parallel; apt-get install parallel" >&2; exit 2; }
folder="results/share-{1}-of-$of"
mkdir -p results
seq "$of" | parallel --sshloginfile "$hosts" --jobs 1 --line-buffer --tag --workdir "$PWD" --return "$folder" \
    cargo paper run --shard "{1}/$of" --out "$folder" "$@"
