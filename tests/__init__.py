"""Tests of every room; test_migrate.py at the top tests the method."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"      # before any Hub client is imported: tests use no network
