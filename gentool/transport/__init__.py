"""Optimal transport between weighted point sets; it knows nothing of images, models or privacy."""
