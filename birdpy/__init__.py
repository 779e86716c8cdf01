"""Routing with the neighbours: drives GoBGP over gRPC, turns learned paths into routes, answers ARP and NDP.

A leaf: imports nothing of felixpy or ipam, and takes its effects through Protocols.

`intent` (what a speaker should be) and `topology` (with whom it talks; pure) are what is asked of it, `speaker` does
it: with `gobgp/` (the driver), `supervisor` and `process` (gobgpd itself), `parting` (how sessions end), `session`,
`flood` and `pulse` (how they stand, when they have said all, and whether gobgpd answers). What neighbours teach goes
through `fib` (paths to routes; pure), `losses` and `mailbox` to whoever owns the kernel; `report`, `told` and `ranges`
are for those who ask. `link_routers` finds neighbours that are named by a link alone. `l2/` answers for Service
addresses in a process of its own. `messages` and `unix_socket` serve the others as well.
"""
