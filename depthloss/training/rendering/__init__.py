"""The renderer of the synthetic data set: scenes, textures, shading; it knows nothing of data sets."""
