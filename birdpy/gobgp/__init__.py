"""The GoBGP driver: one client for the v3 and v4 APIs."""
