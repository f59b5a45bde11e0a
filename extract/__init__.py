"""Stage 1: media files → HDF5 feature cache. Imports `cache`, never `train`."""

from extract.features import numba_cache

numba_cache.settle()
