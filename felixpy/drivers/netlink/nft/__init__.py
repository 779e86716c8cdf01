"""Our nftables table by nfnetlink: what is read, what an op becomes in bytes, and in how many transactions."""
