"""Features of items (matrices, texts) aligned with the items of a data set."""
