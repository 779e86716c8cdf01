"""The CNI plugin's server side, its wire format and the static shim that container runtimes start."""
