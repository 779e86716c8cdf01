#!/usr/bin/env bash
# build.sh DIR: the kube-apiserver of go.mod in DIR, and DIR/modules with the definitions of custom resources that other
# projects publish.
set -euo pipefail
cd "$(dirname "$0")"
out=$1
mkdir -p "$out/modules"
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}
package=k8s.io/component-base/version
for module in go.universe.tf/metallb@v0.16.1 sigs.k8s.io/network-policy-api@v0.{1.7,2.0}; do
  go mod download "$module"
  ln -sfn "$(go env GOMODCACHE)/$module" "$out/modules/${module##*/}"
done
echo "kube-apiserver $version is compiled (some six minutes of one processor, once)"
go build -o "$out/" -ldflags "-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 \
  -X $package.gitMinor=${minor%%.*}" tool
