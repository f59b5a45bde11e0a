"""A cache at a URL: folders, SSH, S3, the web."""
