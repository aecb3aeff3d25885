"""Shards become batches: opened sets, checked reads, and streams in an order that no rank or reader changes."""
