"""From clips to the inputs of a model: views, samples, batches, caches and augmentation."""
