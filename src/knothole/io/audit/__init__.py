"""Which ways lead out of a network and in, for its administrator: tried, not guessed."""
