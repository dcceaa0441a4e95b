"""Characters of The Time Machine, in the setting of Dive into Deep Learning, and of whole books."""
