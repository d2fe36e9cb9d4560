"""Data that the default runs and the tests need, and the scripts that made it."""
