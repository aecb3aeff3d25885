"""The road of the data: sources, shards, stream."""
