"""The model: what travels with a checkpoint."""

# First, and whole: its import registers the classes of this package, which then are not half imported themselves.
import transformers  # noqa: F401
