"""Answers ARP and NDP for Service addresses, and settles among the nodes of a segment which one does.

`packets` (bytes), `election` (who answers; pure), `segment` (the addresses of one interface; pure), `links` and `port`
(the kernel's side), `protocol` and `control` (what the agent says to it, and where), `program` (how it is run),
`responder` (the process, `python -m birdpy.l2`).
The process imports only what it needs, so that it answers within milliseconds of its start.
"""
