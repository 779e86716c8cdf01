"""Our own netlink: message codec, rtnetlink (links, addresses, routes, nexthops) and nfnetlink (nftables).

`codec` (bytes) and `socket` are under all of it. `rtnetlink` is the driver: by kind of object `links`, `neighbours`,
`routes`, `iprules` and `settings` turn values into messages and back, `verbs`, `link_changes` and `rule_changes` say
what is sent for an op, `dumps` and `devices` read, and `alike` is for routes by the hundred thousand. `nft/`, `ipset`,
`conntrack` and `nflog` are netfilter's. `monitor` hears what others do, `lookup` asks for a way, and `pods/` wires
pods.
"""
