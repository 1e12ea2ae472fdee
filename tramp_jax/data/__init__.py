"""From data sets to batches: clip records, landmarks, temporal sampling, augmentation and the grain pipeline."""
