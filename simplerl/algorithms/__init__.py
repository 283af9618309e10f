"""Defines advantage estimators, losses, corrections and reward shaping: pure functions for conf/algorithm/."""
