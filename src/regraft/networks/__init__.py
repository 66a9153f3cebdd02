"""Pre-trained networks: what there is, how weights get in, where features are read, where they are cut."""
