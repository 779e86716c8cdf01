"""What becomes of a packet between two parties, and what decides it: from a snapshot of the datastore, without a node.

`parties` finds who is meant, `cluster` gives each node on the way what its agent reads, `flow` sends the packet through
the compiled rules of these nodes, `reading` puts the rules it met into the words of policies, `text` prints them.
"""
