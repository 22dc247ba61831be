"""A corpus in shards: encoded, searched and merged by several processes or machines; Ray is imported here alone."""
