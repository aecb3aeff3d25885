"""Readers of the formats data comes in."""
