"""Score any RecBole model at chosen items; registry of models that score by a dot product."""
