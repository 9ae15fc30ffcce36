"""What files are made of: pickles read as data, members of HDF5 and JSON files, recordings. Below every layout."""
