"""Output formats shared by commands and reports."""
