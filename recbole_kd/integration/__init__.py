"""RecBole's modules and pickles: compatibility, registration and safe loading."""
