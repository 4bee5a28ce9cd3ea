"""Scripts that regenerate the paper's figures: ``python -m figures.fig1``."""
