"""What `adaptive-ft` can do, one command a file: a dataclass of options with `run()`."""
