"""Text bases, heads, encoder systems, and their folders on disk."""
