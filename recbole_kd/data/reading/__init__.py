"""RecBole's atomic files into data frames."""
