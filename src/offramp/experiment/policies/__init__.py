"""Per-sample policies of one task beside its fixed exits: budgets, behaviour, guarantees, time."""
