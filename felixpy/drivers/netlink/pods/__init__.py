"""Pods in the kernel: `link` (the veth pair), `wiring` (what its ends hold), `check`, and `mtu` while they run."""
