"""What was tuned where: usage of the gates, pictures of it, and the table that compares strategies."""
