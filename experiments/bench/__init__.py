"""Speed and memory, each one command, as a ratio to a peer measured in the same run."""
