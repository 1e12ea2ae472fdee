"""From clips to the inputs of a model: views, samples, augmentation, caches and batches."""
