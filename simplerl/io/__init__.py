"""How files and tables are written and read."""
