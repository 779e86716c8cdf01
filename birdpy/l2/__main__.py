"""Runs the responder."""

from birdpy.l2.responder import main

main()
