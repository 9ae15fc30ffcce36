"""Layouts that anybody may write: HDF5, npz, SigMF."""
