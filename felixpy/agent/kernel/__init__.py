"""The node's kernel, made what the Intent says: one applier per kind of thing, and who listens for others' changes."""
