"""Tools beside the searches: many searches at a time, and measurements of speed."""
