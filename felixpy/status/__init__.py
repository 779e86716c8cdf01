"""How a node stands, as values: what `felixctl status`, `/readiness` and `/metrics` all tell. Pure."""
