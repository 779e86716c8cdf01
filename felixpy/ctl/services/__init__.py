"""`felixctl svc` and `lb`: Services and their addresses as a person asks about them."""
