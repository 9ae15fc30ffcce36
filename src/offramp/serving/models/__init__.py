"""What is served: the tasks of a bundle, or any callable; and the repository that clients see."""
