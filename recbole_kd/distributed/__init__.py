"""Data-parallel ranks, batch shards and the Ray connection."""
