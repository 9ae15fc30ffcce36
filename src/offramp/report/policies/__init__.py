"""What policies of a task look like: their page, plots, warnings and sentences."""
