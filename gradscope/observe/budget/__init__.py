"""Which steps are observed within the budget."""
