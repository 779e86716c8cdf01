"""Our own netlink: message codec, rtnetlink (links, addresses, routes, nexthops) and nfnetlink (nftables)."""
