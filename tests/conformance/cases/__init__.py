"""The cases: tables, one row a case, and the small models that they need."""
