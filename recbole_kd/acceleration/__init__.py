"""CPU replacements for slow parts inside RecBole models."""
