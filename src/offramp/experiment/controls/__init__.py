"""What a score has to be held against: features without a pretrained encoder, put through the same heads."""
