"""Who holds which address: pod blocks per node, and LoadBalancer addresses from pools.

A leaf: imports nothing of felixpy or birdpy, and takes its effects through Protocols.

`model` and `addresses` are the values, `codec` their JSON (Calico's, byte for byte), `store` what a datastore is.
`engine` serves requests (`request`): it plans with `assigning`, `releasing`, `choose` and `block` (pure) over what
`cache` knows, into a `draft`, which is one transaction. `loadbalancer` chooses Services' addresses from what `ledger`
holds; `audit` finds what is wrong.
"""
