"""Where effects happen: each driver reads objects from, and applies ops to, one part of the kernel.

`driver` is all of them as one. `netlink/` has devices, routes, neighbours and nftables; `iptables` is the other back
end, `backend` finds out which one works, `netfilter` is that one, `touched` tells cheaply whether others changed it;
`sysctl` is /proc/sys. `reach`, `served` and `readable` only look.
"""
