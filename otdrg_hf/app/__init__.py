"""The web page of `otdrg app`: images in, the report as it is written, labels to correct, evidence over the images."""
