"""A Space for a model: the page of `otdrg app`, on a machine of the Hub."""

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
ENDPOINT_FILES = ("handler.py", "requirements.txt")
SPACE_FILES = ("README.md", "app.py", "requirements.txt")


def space_files(model_id: str) -> dict[str, bytes]:
    """The files of a Space that runs this model, by name."""
    texts = {name: (TEMPLATES / "space" / name).read_text(encoding="utf-8") for name in SPACE_FILES}
    return {name: text.replace("ORG/MODEL", model_id).encode() for name, text in texts.items()}


def push_space(space_id: str, model_id: str, private: bool, message: str) -> str:
    """
    Makes or renews a Space in one commit.

    Args:
        space_id (`str`): Such as `"org/otdrg-page"`.
        model_id (`str`): The model that it runs, on the Hub.
        private (`bool`): Whether a new Space is to be private.
        message (`str`): Of the commit.

    Returns:
        `str`: Address of the commit.

    Raises:
        ValueError: for a Space that holds something else, or is public where it must not be.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi()
    try:
        info = api.space_info(space_id)
    except RepositoryNotFoundError:
        api.create_repo(space_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=False)
    else:
        if private and not info.private:
            raise ValueError(f"{space_id} is there already and public: make it private, or choose another name.")
        others = set(api.list_repo_files(space_id, repo_type="space")) - {*SPACE_FILES, ".gitattributes"}
        if others:
            raise ValueError(f"{space_id} is there already and holds something else: choose another name.")
    operations = [CommitOperationAdd(name, content) for name, content in space_files(model_id).items()]
    return api.create_commit(space_id, operations, commit_message=message, repo_type="space").commit_url
