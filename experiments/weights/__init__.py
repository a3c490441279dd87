"""Real weights: reading published files safely, and keeping our own."""
