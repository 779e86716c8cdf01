"""felixctl doctor: what is known to go wrong on nodes and in clusters, looked for and said in words.

facts.py reads, host.py and cluster.py judge; a Finding is one thing that is wrong, with what to do about it.
"""
