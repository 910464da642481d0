"""What lies in a trained fold: weights, words, sampling, calibration; and folds that make up one model."""
