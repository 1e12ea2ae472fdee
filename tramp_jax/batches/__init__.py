"""From clips to what the model sees of them: views, sampling, augmentation, caches and batches."""
