"""Pods of this node: what the CNI server needs, and what follows their resources while they run."""
