"""The second back end's renderer: the same chains, sets and maps as tables of iptables. Pure."""
