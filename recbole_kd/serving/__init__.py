"""A finished student in use: its folder, recommendations, and new users."""
