"""Timings: our parts beside other people's on the same checkpoint, prompts and token counts."""
