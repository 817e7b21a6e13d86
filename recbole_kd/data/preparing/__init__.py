"""Raw files into RecBole's atomic files."""
