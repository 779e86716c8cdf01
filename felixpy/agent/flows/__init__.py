"""What this node's rules tell of packets: read from the kernel, kept, counted, told to those who follow."""
