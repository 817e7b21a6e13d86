"""The command lines: one program with one verb per job."""
