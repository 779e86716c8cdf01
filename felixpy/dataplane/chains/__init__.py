"""What is desired, in names, to chains, sets and maps: a module per part of the packet's way."""
