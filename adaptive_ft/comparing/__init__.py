"""Several strategies and seeds, run one like the other and compared: the recipe, its runs, their progress, the cost."""
