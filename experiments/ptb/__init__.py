"""The word model of the Penn Treebank, in the setting of Zaremba, Sutskever & Vinyals 2014."""
