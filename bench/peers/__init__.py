"""The same work on this package and on its peers, each in a virtual environment of its own.

What runs in a peer's environment (`serve`, `work`, `protocol`, `drivers`) needs the standard library and that peer
only.
"""
