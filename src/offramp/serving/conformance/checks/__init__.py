"""The checks, by what they belong to."""
