"""Readers of the formats in which image-text data is published: ImageRecords or questions by image."""
