"""What a user would do instead of leaving early, at matched time: quantisation, pruning, distillation; alone and at the exit."""
