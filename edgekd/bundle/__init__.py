"""The evidence of a release as one signed archive, and its verification from the archive alone."""

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
