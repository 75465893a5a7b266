"""The error that every reader of study data raises for input that a user can put right."""


class DataError(ValueError):
    """Study data cannot be used as it is; the message says what is wrong with which input, and what to do."""


def require_datasets():
    """Import and return the `datasets` library, or say in one line how to install it."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("Study data needs the datasets library: pip install 'otdrg-hf[train]'") from error
    return datasets
