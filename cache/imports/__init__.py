"""Features that others computed, brought into caches: arrays of a folder, HDF5 files, AVE's own."""
