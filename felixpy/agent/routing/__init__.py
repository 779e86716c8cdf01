"""The bgp role, and what the agent itself does for the ways between nodes."""
