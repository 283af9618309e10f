"""Advantage estimators, losses, corrections and reward shaping: pure functions named in conf/algorithm/."""
