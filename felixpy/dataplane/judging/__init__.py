"""What the rules that go to the kernel do to a packet, and how it is found without a kernel."""
