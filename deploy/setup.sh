#!/usr/bin/env bash
# setup.sh lab|test: installs the Debian packages that the lab needs, or those of the lab and the tests.
# Does nothing, and asks no mirror, where all are there.
set -euo pipefail
packages=(etcd-server etcd-client gobgpd bird2 nftables tcpdump iproute2 iputils-ping util-linux procps curl
    gcc libc6-dev make python3-venv)
if [ "${1:-lab}" = test ]; then
    packages+=(frr iptables ipset conntrack nginx-light podman containerd containernetworking-plugins user-mode-linux kmod)
fi
installed=" $(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null |
    awk '$2 == "installed" { printf "%s ", $1 }' || true)"
missing=()
for package in "${packages[@]}"; do
    [[ $installed == *" $package "* ]] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "setup: as root, first: apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# The packages must not start daemons of their own: the lab starts each one in a namespace.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
patience=(-o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
apt-get -qq "${patience[@]}" update
apt-get -qq "${patience[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
