"""What tasks read and score with: parsers, word vectors, objectives, docking, sandbox, pictures."""
