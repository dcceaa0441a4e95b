"""Does what is measured before training tell which network learns which lag?"""
