"""This node as the cluster knows it: its name, its Node resource, what others may ask of it."""
