"""Tables and plots of what runs wrote to disk."""
