"""The control channel: how an operator's program and the daemon speak to each other."""
