"""The micro world: integer arithmetic small enough to learn, check and sharpen on a laptop in minutes."""
