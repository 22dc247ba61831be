"""Text bases, heads, encoder systems, and their folders on disk. Importing it makes every system known by name."""

from ragcun.models import systems as systems
