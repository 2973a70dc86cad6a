"""DP-Sinkhorn: one generator, trained by optimal transport to private images (Cao et al. 2021, arXiv 2111.01177)."""
