"""The main job, from a suite to results, report and bundle."""
