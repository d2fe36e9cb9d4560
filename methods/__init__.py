"""More rows of METHODS (migrate-evo is the paper's, discover is not), and modifiers of any row."""
