"""How each peer does the work: a module a peer, with a class ``Driver``."""
