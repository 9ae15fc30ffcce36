"""Channel predictors without a foundation model, to hold ours against."""
