"""`felixctl flows`: asked of the nodes, shown a line each."""
