"""What is not in the paper: rows of METHODS, and modifiers that fit any row."""
