"""Models and what is done with them: loading, forward passes, optimizer steps, and the roles of one process."""
