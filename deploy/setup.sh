#!/usr/bin/env bash
# Installs the Debian packages that the lab and the tests need; does nothing where all are there.
set -euo pipefail
packages=(etcd-server etcd-client gobgpd bird2 frr iptables ipset nftables conntrack tcpdump iproute2 iputils-ping
    procps gcc libc6-dev make python3-venv python3-dev)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# The packages must not start daemons of their own: the lab starts each one in a namespace.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.felixpy
had_policy=no
if [ -e /usr/sbin/policy-rc.d ]; then had_policy=yes; else
    mv /usr/sbin/policy-rc.d.felixpy /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
fi
apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
if [ $had_policy = no ]; then rm -f /usr/sbin/policy-rc.d; else rm -f /usr/sbin/policy-rc.d.felixpy; fi
