"""Flows that this node's rules told of: what was seen, gathered, and said to those who ask. Pure."""
