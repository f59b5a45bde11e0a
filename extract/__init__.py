"""Stage 1: media files → HDF5 feature cache. Imports `cache`, never `train`."""
