"""Feature extraction: media files through the vision encoder to feature files, and the reading of these."""

SUFFIX = ".safetensors"  # of feature files
IMAGES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}  # that are encoded, in any case
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".3gp"}
