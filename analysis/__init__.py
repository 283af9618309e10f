"""From run folders and W&B exports to tables, figures and a report."""
