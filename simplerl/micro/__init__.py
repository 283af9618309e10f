"""The micro world: integer arithmetic that a tiny model can learn and RL can improve, on a laptop in minutes."""
