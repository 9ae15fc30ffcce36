"""What is seen of a server: counts, metrics, logs, traces, drift, and agreement with full depth."""
