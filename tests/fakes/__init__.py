"""Twins of what is not ours, for tests that need many worlds quickly; each keeps a contract with the real thing."""
