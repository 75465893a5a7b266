"""The web page of `otdrg app`: a film in, its report as it is written, labels to correct, evidence over the film."""
