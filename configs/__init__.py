"""Recipes, one a file; each says its command, the time it takes and what to expect."""
