"""What one elected process of the cluster does: gives Services their addresses, collects leaks."""
