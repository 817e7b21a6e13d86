"""The paper's tables and figures as cells: generated runs, results, and the page."""
