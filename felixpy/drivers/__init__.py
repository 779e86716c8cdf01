"""Where effects happen: each driver reads objects from, and applies ops to, one part of the kernel."""
