"""Parse, validate and layer the user's keys; property files."""
