"""The lab: a containerlab topology built from network namespaces, proved with packets, removed without a trace."""
