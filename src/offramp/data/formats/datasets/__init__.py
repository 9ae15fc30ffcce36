"""Layouts of single data sets, one file each."""
