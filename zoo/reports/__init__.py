"""Reports: a run or a study as one HTML file."""
