"""What is written down: suites, tasks, policies and results, as pydantic models. Imports no torch."""
