"""Fixed exits beside policies, for one task: the section ``policies:`` of a suite."""
