"""Where arrays live: the device mesh, the rules from logical to mesh axes, and the one statement of every weight."""
