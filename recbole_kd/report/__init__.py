"""The report.html of a run, a comparison, a grid or a search, made from the files of its folder."""
