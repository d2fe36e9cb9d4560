"""Tests of every room; test_migrate.py at the top tests the method."""
