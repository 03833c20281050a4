"""Signalling: typed messages between clients and the rendezvous server, and what they seal.

``messages`` has the structs, ``values`` what is in them, ``codec`` bytes to structs and back,
``content`` what only the two ends of a call read. The protocol is docs/protocol/signal.md.
"""
