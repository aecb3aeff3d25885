"""Gated operations."""
