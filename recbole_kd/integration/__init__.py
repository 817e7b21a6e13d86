"""Everything that touches RecBole's modules and pickles: compatibility, registration, safe loading."""
