"""From resources to writes: what would change, what it would move, and what is refused."""
