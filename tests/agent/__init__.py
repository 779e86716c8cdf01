"""Through the whole agent: what an etcd write, a CNI call or a command does to packets, and what is said of it.

A folder per subject: `bgp/`, `cni/`, `policy/` (host endpoints, flows and iptables too), `services/`, `tunnels/`, and
`process/` (start, restart, faults, status, what is told to machines). `node` is one node under test and `cluster` two.
"""
