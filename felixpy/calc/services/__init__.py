"""What Services ask of this node's kernel: frontends and their backends."""
