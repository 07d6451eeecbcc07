"""A small synthetic world, rendered, captioned and asked about, on which a model can be trained and tested anywhere."""
