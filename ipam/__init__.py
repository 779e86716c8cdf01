"""Who holds which address: pod blocks per node, and LoadBalancer addresses from pools.

A leaf: imports nothing of felixpy or birdpy, and takes its effects through Protocols.
"""
