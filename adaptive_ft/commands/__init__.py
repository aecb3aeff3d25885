"""What `adaptive-ft` can do: one module per command, holding its options as the dataclass `Command` with `run()`."""
