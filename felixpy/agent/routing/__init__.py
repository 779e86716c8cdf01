"""The bgp role, and what the agent itself does for the ways between nodes.

`role` feeds the speaker, with `facts` of the host; what neighbours teach goes through `learned`, `next_hops` and
`places` (where others' routes are) to `route_reconciler` and `learned_driver`. `tunnels` keeps this node's tunnel
addresses, `underlay` knows the devices that all lies on, `answers` says how it stands.
"""
