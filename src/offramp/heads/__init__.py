"""Small modules on a tap, and all exits, seeds and strengths fitted in one solve."""
