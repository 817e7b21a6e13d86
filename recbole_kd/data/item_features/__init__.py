"""Item features (matrices, texts), aligned with the items of a data set."""
