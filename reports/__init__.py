"""What runs found: rows, measures, tables, plots and pages (`python -m reports`)."""
