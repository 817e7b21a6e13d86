"""Parser, validation and layers of the user's keys, and property files."""
