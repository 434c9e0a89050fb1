"""Sick programs with their repaired twins, and sound programs that look odd: what gradscope finds in them."""
