"""Routing with the neighbours: drives GoBGP over gRPC, turns learned paths into routes, answers ARP and NDP.

A leaf: imports nothing of felixpy or ipam, and takes its effects through Protocols.
"""
