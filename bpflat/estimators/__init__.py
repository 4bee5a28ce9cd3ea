"""Estimators of log Z(w, Δ), the anchored partition function of the committee machine, and what they share."""
