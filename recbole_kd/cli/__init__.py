"""Command lines: one program, one verb a job."""
