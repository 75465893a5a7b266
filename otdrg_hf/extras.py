"""Optional dependencies: one clear line where one is missing."""

import importlib.util


def require(module: str, extra: str) -> None:
    """Raises `ImportError` that names the extra to install if `module` cannot be imported."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"This needs {module}: pip install 'otdrg-hf[{extra}]'")
