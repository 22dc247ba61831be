"""Training pairs and collections: reading, validating, making."""
