"""felixctl: what people type."""
