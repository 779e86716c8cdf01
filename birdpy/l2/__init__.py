"""Answers ARP and NDP for Service addresses, and settles among the nodes of a segment which one does.

`packets` (bytes), `election` (who answers; pure), `segment` (the addresses of one interface; pure), `links` and
`sockets` (the kernel's side), `protocol` (what the agent says to it), `responder` (the process, `python -m birdpy.l2`).
The process imports only what it needs, so that it answers within milliseconds of its start.
"""
