"""Results as people read them: one sentence per task, tables, plots and a self-contained HTML page."""
