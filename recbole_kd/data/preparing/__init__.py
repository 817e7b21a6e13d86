"""Conversion of raw files into RecBole's atomic files."""
