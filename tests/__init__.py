"""Tests of every room; test_migrate.py at the top tests the method."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"      # before any Hub client is imported: tests use no network

from hypothesis import settings  # noqa: E402

settings.register_profile("same examples every time", derandomize=True, deadline=None)
settings.load_profile("same examples every time")
