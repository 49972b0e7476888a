"""What scripts/reproduce_tables.py is made of."""
