#!/usr/bin/env bash
# gobgpd.sh TARGET: gobgpd v4 by `go install` where Go is at hand, else a link to Debian's v3.
set -euo pipefail
target=$1
version=v4.8.0
mkdir -p "$(dirname "$target")"
if command -v go >/dev/null; then
    echo "gobgpd: building $version"
    if GOBIN=$(realpath "$(dirname "$target")") GOFLAGS=-mod=mod timeout 600 go install "github.com/osrg/gobgp/v4/cmd/gobgpd@$version"; then
        exit 0
    fi
    echo "gobgpd: the build failed; falling back to the packaged one" >&2
fi
ln -sf "$(command -v gobgpd)" "$target"
