#!/usr/bin/env bash
# gobgpd.sh TARGET: gobgpd v4 by `go install` where Go is at hand, else a copy of Debian's v3.
set -euo pipefail
target=$1
version=v4.8.0
directory=$(realpath -m "$(dirname "$target")")
mkdir -p "$directory"
if command -v go >/dev/null; then
    echo "gobgpd: building $version (about a minute, once)"
    export HOME=${HOME:-/root} # where Go keeps what it has fetched
    for pause in 0 5 20; do    # what it fetches comes over a network
        sleep "$pause"
        if GOBIN=$directory GOFLAGS=-mod=mod timeout 600 go install "github.com/osrg/gobgp/v4/cmd/gobgpd@$version"; then
            touch "$target" # go install leaves a program that has not changed as it is, and make would call us each time
            exit 0
        fi
    done
    echo "gobgpd: the build failed; the packaged one is taken" >&2
fi
install -m 755 "$(command -v gobgpd)" "$target"
