"""Feature extraction: media files through the vision encoder to feature files, and the reading of these."""

SUFFIX = ".safetensors"  # of feature files
