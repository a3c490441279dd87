"""The pictures of a report, drawn by Matplotlib without its global state."""
