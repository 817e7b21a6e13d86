"""The paper's tables and figures as cells: generated runs, finished results, and the page beside the paper."""
