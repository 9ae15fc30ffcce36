"""What the exits of a task look like: plots, and one plain sentence."""
