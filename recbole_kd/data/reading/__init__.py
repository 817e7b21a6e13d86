"""Reader of RecBole's atomic files."""
