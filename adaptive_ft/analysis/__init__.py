"""What was tuned where."""
