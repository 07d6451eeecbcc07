"""A small world that is rendered, captioned and asked about, so that a model can be trained and tested anywhere."""
