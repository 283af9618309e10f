"""Advantage estimators, losses, corrections and reward shaping: pure functions configured in conf/algorithm/."""
