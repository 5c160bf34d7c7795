"""Teachers: where their weights come from, and the cache of what they say."""
