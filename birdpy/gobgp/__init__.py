"""GoBGP over its gRPC interface, versions 3 and 4 by one client."""
