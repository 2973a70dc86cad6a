"""Operators on point sets: sampling, neighbourhoods, voxel grids, distances.

Networks take coordinates and features channels first, (B, 3, N) and (B, C, N), as convolutions do; distances compare
clouds as data sets and samples files hold them, (B, N, 3).
"""
