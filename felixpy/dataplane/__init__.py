"""Kernel objects as values: rules, sets, chains, routes; their order, ownership, difference and text. Pure."""
