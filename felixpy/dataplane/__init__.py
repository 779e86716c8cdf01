"""Kernel objects as values: rules, sets, chains, routes; their order, ownership, difference and text. Pure.

`objects` and `rules` are the values. `translate` makes them of what a node should be, with `chains/` (a module per part
of a packet's way), `hosts`, `sets`, `pod` and `tunnel_objects`; `changes` says what that asks of the kernel, `order` in
which order, `ownership` what of it is ours, `describe` how a person would type it. `nftables`, `nftables_sets` and
`iptables/` render text; `judging/` walks the rules as a packet does. `stale_flows`: what the kernel should forget.
"""
