"""After a search: its adapter is pushed to the Hub, drawn from, or starts another search."""
